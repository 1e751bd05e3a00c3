"""The looks that every report shares: colours, names of stages and roles, units and digits, the frame of a figure.

It must not know any metric's meaning or where numbers come from.

Colours: variants use the "bright" and stages the Okabe-Ito qualitative scheme; both keep their hues apart for the
common forms of colour blindness (P. Tol, "Colour Schemes", SRON/EPS/TN/09-002; M. Okabe, K. Ito, "Color Universal
Design", 2008).
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1b1f24"
MUTED = "#5b6470"
GRID = "#d5dae0"
FIGURE_WIDTH_INCHES = 9.0
ROLES = ("prefill", "decode", "colocated")


class Stage(msgspec.Struct, frozen=True):
    """One stretch of a request's life. ``key`` is its name in ``summary["variants"][...]["stages_s"]``."""

    key: str
    label: str
    colour: str
    label_colour: str


STAGES = (
    Stage("prefill_queue", "prefill queue", "#E69F00", "#000000"),
    Stage("prefill", "prefill", "#0072B2", "#ffffff"),
    Stage("decode_memory_wait", "wait for decode memory", "#D55E00", "#ffffff"),
    Stage("transfer_exposed", "transfer, not hidden", "#CC79A7", "#000000"),
    Stage("decode_wait", "wait for decode step", "#F0E442", "#000000"),
    Stage("decode", "decode", "#56B4E9", "#000000"),
)


class LineLook(msgspec.Struct, frozen=True):
    """Colour and dash pattern of a variant's lines: where lines coincide, the one below shows through the gaps."""

    colour: str
    dashes: Literal["solid", "dashed", "dotted", "dashdot"]


# 7 colours and 4 patterns have no common factor: 28 variants look different
_VARIANT_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#888888")
_VARIANT_DASHES: tuple[Literal["solid", "dashed", "dotted", "dashdot"], ...] = ("solid", "dashed", "dotted", "dashdot")


def variant_looks(names: Iterable[str]) -> dict[str, LineLook]:
    """The look of each variant, by its place in ``names``: give the same order everywhere."""
    colours, dashes = len(_VARIANT_COLOURS), len(_VARIANT_DASHES)
    return {
        name: LineLook(_VARIANT_COLOURS[place % colours], _VARIANT_DASHES[place % dashes])
        for place, name in enumerate(names)
    }


def ordered_roles(roles: Iterable[str]) -> list[str]:
    """Each role once: the known ones in the order of a request's life, then any other by name."""
    present = list(dict.fromkeys(roles))
    return [role for role in ROLES if role in present] + sorted(role for role in present if role not in ROLES)


def time_unit(seconds: Iterable[float]) -> tuple[float, str]:
    """Factor and unit that suit the largest of these durations: ``value_s * factor`` is in that unit."""
    largest = max((abs(value) for value in seconds), default=0.0)
    if largest >= 1 or largest == 0:
        return 1.0, "s"
    return (1e3, "ms") if largest >= 1e-3 else (1e6, "µs")


def decimals_for(values: Sequence[float], most: int = 3) -> int:
    """Decimals that show three digits of the largest value and two of the smallest, but never more than ``most``."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 0
    needed = max(2 - math.floor(math.log10(max(sizes))), 1 - math.floor(math.log10(min(sizes))))
    return min(max(needed, 0), most)


def number_text(value: float | None, decimals: int) -> str:
    """``1234.5`` as ``1,234.5``; an en dash for what does not exist; ``<0.01`` for what would look like zero."""
    if value is None or math.isnan(value):
        return "–"
    smallest = 10.0**-decimals
    if 0 < abs(value) < smallest / 2:
        return f"{'<' if value > 0 else '>-'}{smallest:.{decimals}f}"
    return f"{value:,.{decimals}f}"


def duration_texts(seconds: Sequence[float]) -> list[str]:
    """Durations to be read next to each other, in one unit: ``0.37 s`` and ``1.68 s``, ``45.6 ms``."""
    factor, unit = time_unit(seconds)
    digits = decimals_for([value * factor for value in seconds])
    return [f"{number_text(value * factor, digits)} {unit}" for value in seconds]


FIGURE_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures look the same everywhere
    "font.size": 9.5,
    "figure.dpi": 100,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "kvsim",
}


@contextmanager
def drawing_style() -> Iterator[None]:
    """Within the block, figures are made and drawn in ``FIGURE_STYLE``, whatever the caller's settings are."""
    from matplotlib import style  # noqa: PLC0415

    with style.context(FIGURE_STYLE, after_reset=True):
        yield


def new_figure(height_inches: float, title: str) -> "Figure":
    """An empty figure with its title; belongs to no pyplot state. To be called within ``drawing_style``."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(FIGURE_WIDTH_INCHES, height_inches), layout="constrained")
    figure.suptitle(title, x=0.01, horizontalalignment="left")
    return figure


def legend_below(figure: "Figure", handles: Sequence[Any], labels: Sequence[str], columns: int = 6) -> None:
    """One legend for all panels, below them, where it covers nothing."""
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(columns, len(handles)))


def literal(name: str) -> str:
    """A user's name as text that is not taken for a formula."""
    return name.replace("$", r"\$")


def settle_layout(figure: "Figure") -> "Figure":
    """Place everything once and for all, so that a figure is not laid out again for each file that it is saved to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    engine = figure.get_layout_engine()
    if engine is not None:
        with drawing_style():
            FigureCanvasAgg(figure)
            engine.execute(figure)
            figure.set_layout_engine(None)
    return figure


def figure_bytes(figure: "Figure", file_format: Literal["svg", "png"]) -> bytes:
    """The figure as a file's contents: no date, no random ids, the same bytes on every run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    buffer = io.BytesIO()
    unwanted = ("Software",) if file_format == "png" else ("Creator", "Date", "Format", "Type")
    metadata = dict.fromkeys(unwanted)
    with drawing_style():
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format=file_format, metadata=metadata, facecolor="white", dpi=150)
    return buffer.getvalue()
