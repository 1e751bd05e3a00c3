"""What a definition of a metric is made of. It must not know any metric."""

import msgspec


class Definition(msgspec.Struct, frozen=True):
    """The unit ("" for counts and fractions) and one exact sentence."""

    unit: str
    text: str
