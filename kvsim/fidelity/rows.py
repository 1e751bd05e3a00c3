"""A row of the table of ``kvsim fidelity``: one number that was promised, and what became of it."""

from typing import NamedTuple


class Row(NamedTuple):
    """``value`` and ``limit`` are shares (0.1 is 10 %) of the absolute error of ``metric``; ``bias`` is the mean signed
    error, None where it says nothing. Without a limit a row is for information. ``points``: measurements compared."""

    target: str
    metric: str
    value: float
    limit: float | None
    points: int
    bias: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the value keeps within its limit."""
        return self.limit is None or self.value <= self.limit
