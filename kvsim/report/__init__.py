"""How results look: a terminal table, figures, a self-contained HTML page, and a timeline for trace viewers.

Everything here reads what a run folder holds (summary, requests, workers, record). It must not compute a metric anew:
``kvsim.metrics`` has the one implementation. Nothing here imports a simulator or a real backend. Names are loaded when
they are first used: a run that prints a table needs neither figures nor pages.
"""

from typing import TYPE_CHECKING

from kvsim.lazy_names import names_of

if TYPE_CHECKING:
    from kvsim.report.figures import (
        DrawnFigure,
        draw_figures,
        latency_cdf_figure,
        load_figure,
        memory_figure,
        save_figures,
    )
    from kvsim.report.html import write_report
    from kvsim.report.progress import run_progress
    from kvsim.report.stage_figure import stage_breakdown_figure
    from kvsim.report.terminal import comparison_table, print_table
    from kvsim.report.timeline import write_timeline

__all__ = [
    "DrawnFigure",
    "comparison_table",
    "draw_figures",
    "latency_cdf_figure",
    "load_figure",
    "memory_figure",
    "print_table",
    "run_progress",
    "save_figures",
    "stage_breakdown_figure",
    "write_report",
    "write_timeline",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "DrawnFigure": "kvsim.report.figures",
        "comparison_table": "kvsim.report.terminal",
        "draw_figures": "kvsim.report.figures",
        "latency_cdf_figure": "kvsim.report.figures",
        "load_figure": "kvsim.report.figures",
        "memory_figure": "kvsim.report.figures",
        "print_table": "kvsim.report.terminal",
        "run_progress": "kvsim.report.progress",
        "save_figures": "kvsim.report.figures",
        "stage_breakdown_figure": "kvsim.report.stage_figure",
        "write_report": "kvsim.report.html",
        "write_timeline": "kvsim.report.timeline",
    },
)
