"""What a definition of a metric is made of. It must not know any metric."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Definition:
    """The unit ("" for counts and fractions) and one exact sentence."""

    unit: str
    text: str
