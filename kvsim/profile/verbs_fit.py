"""Links fitted to published figures by block size: round trip, time of a further block, and rate.

A transfer of B blocks with S bytes together takes ``round trip + (B - 1) x operation + S / rate``: what each block
costs beside its bytes, the first one's share is in the round trip. Robust least squares of relative errors
(``kvsim.profile.least_squares``). The file is YAML: names, each with ``source`` and ``figures`` of ``blocks``,
``block`` (bytes of one) and ``rate`` (bytes a second, all of them together). It must not know presets.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from pydantic import Field, TypeAdapter, ValidationError

from kvsim.errors import KvsimError
from kvsim.presets.field_types import Bytes, Count, Fields, Rate, Text
from kvsim.profile.fit_result import ClassResidual, residual
from kvsim.profile.least_squares import Floats, independent, robust_fit

_FASTEST_BYTES_PER_S = 1e12
"""No port of a NIC is as fast (800 Gbit/s are 1e11); what is, has a wrong unit."""

_SLOWEST_BYTES_PER_S = 1e6
"""Nor is the largest transfer over any RDMA link as slow."""


class VerbsFitError(KvsimError):
    """Published figures cannot be fitted."""


class Figure(Fields):
    """One transfer."""

    blocks: Count = Field(description="Blocks that were posted together.")
    block: Bytes = Field(description="Bytes of one.")
    rate: Rate = Field(description="All bytes over the time until the last one was there.")


class Published(Fields):
    """Figures of one link from one source."""

    source: Text = Field(description="Where they stand.")
    figures: Annotated[list[Figure], Field(min_length=2)] = Field(description="At least two block sizes.")


@dataclass(frozen=True, slots=True)
class FittedLink:
    """``operation_ns`` is None where every transfer was of one block: figures cannot tell it then."""

    source: str
    round_trip_ns: float
    operation_ns: float | None
    bytes_per_s: float
    residual: ClassResidual


def fit_verbs(path: Path) -> dict[str, FittedLink]:
    """A link for each name in the file. Raises VerbsFitError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        published = TypeAdapter(dict[Text, Published]).validate_python(content)
    except (OSError, yaml.YAMLError) as error:
        raise VerbsFitError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise VerbsFitError("\n".join(lines)) from error
    if not published:
        raise VerbsFitError(f"{path}: found no link, expected names with source and figures")
    problems = [f"{path}: {name}: {text}" for name, one in published.items() if (text := _implausible(one))]
    if problems:
        raise VerbsFitError("\n".join(problems))
    return {name: _fitted(one) for name, one in published.items()}


def _implausible(published: Published) -> str | None:
    """A unit that is off by 1000 shows in the best rate."""
    best = max(figure.rate for figure in published.figures)
    if _SLOWEST_BYTES_PER_S <= best <= _FASTEST_BYTES_PER_S:
        return (
            None if len({figure.block for figure in published.figures}) > 1 else "found one block size, expected more"
        )
    return f"found at most {best:g} B/s, expected the rate of a link: is the unit wrong by a factor of 1000?"


def _fitted(published: Published) -> FittedLink:
    blocks = np.array([figure.blocks for figure in published.figures], dtype=np.float64)
    sizes = blocks * np.array([figure.block for figure in published.figures], dtype=np.float64)
    measured_ns: Floats = 1e9 * sizes / np.array([figure.rate for figure in published.figures], dtype=np.float64)
    known = np.column_stack([np.ones_like(blocks), sizes])
    (tells,) = independent([blocks - 1.0], known)
    matrix = np.column_stack([known, blocks - 1.0]) if tells else known
    found = robust_fit(matrix, measured_ns)
    return FittedLink(
        source=published.source,
        round_trip_ns=float(found[0]),
        operation_ns=float(found[2]) if tells else None,
        bytes_per_s=1e9 / float(found[1]) if found[1] > 0 else float("inf"),
        residual=residual(matrix @ found / measured_ns - 1.0),
    )
