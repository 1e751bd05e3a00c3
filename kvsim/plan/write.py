"""Plan folders: what ``kvsim plan`` leaves on disk, written only when a plan is complete.

It must not compute anything of a plan.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import RunFolderError
from kvsim.plan.document import plan_document
from kvsim.scenario import dump_resolved

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.plan.network_result import NetworkPlan
    from kvsim.plan.result import Plan

PLAN, TABLE, RUNS, SCENARIO, LAYOUTS = "plan.json", "plan.parquet", "runs.parquet", "scenario.yaml", "layouts"
FIGURES, REPORT = "figures", "report.html"


def check_folder(folder: Path) -> Path:
    """The folder, if a plan may be written there. Raises RunFolderError if it holds something else."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no kvsim plan; give another folder with --out")
    return folder


def write_plan(plan: "Plan", folder: Path | str, *, report: bool = True) -> Path:
    """Write a plan: ``plan.json``, ``plan.parquet`` (layouts), ``runs.parquet``, ``scenario.yaml`` (the winner, as
    ``kvsim run`` accepts it), ``layouts/`` (every layout at its goodput), and with ``report`` figures and
    ``report.html``. Returns the folder."""
    scenarios = {layout.name: dump_resolved(plan.scenario_of(layout)) for layout in plan.found}
    files = {f"{LAYOUTS}/{name}.yaml": text.encode() for name, text in scenarios.items()}
    files[SCENARIO] = scenarios[plan.winner.name].encode()
    return _write(Path(folder), files, plan_document(plan), {TABLE: plan.configurations, RUNS: plan.runs}, report)


def write_network_plan(plan: "NetworkPlan", folder: Path | str, *, report: bool = True) -> Path:
    """Write a break-even map: ``plan.json``, ``plan.parquet`` (cells), ``runs.parquet``, ``layouts/`` (the winner of
    each cell at its goodput), and with ``report`` figures and ``report.html``. Returns the folder."""
    files = {f"{LAYOUTS}/{name}.yaml": dump_resolved(one).encode() for name, one in plan.winners().items()}
    return _write(Path(folder), files, plan.document(), {TABLE: plan.cells, RUNS: plan.runs}, report)


def _write(
    folder: Path, files: dict[str, bytes], document: dict[str, Any], tables: "dict[str, pd.DataFrame]", report: bool
) -> Path:
    """Everything is made before the first file is written; ``plan.json`` comes last, as the mark of a whole plan."""
    if report:
        from kvsim.report.plan_figures import plan_figures  # noqa: PLC0415  # matplotlib is heavy
        from kvsim.report.plan_page import plan_page  # noqa: PLC0415
        from kvsim.report.style import figure_bytes  # noqa: PLC0415

        figures = plan_figures(document)
        files[REPORT] = plan_page(document, figures).encode()
        for name, figure in figures.items():
            files[f"{FIGURES}/{name}.svg"] = figure_bytes(figure, "svg")
            files[f"{FIGURES}/{name}.png"] = figure_bytes(figure, "png")
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    _clear(check_folder(folder))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, table in tables.items():
        table.to_parquet(folder / name, index=False)
    (folder / PLAN).write_text(text, encoding="utf-8")
    return folder


def _clear(folder: Path) -> None:
    """Make the folder, or remove the files of an earlier plan."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PLAN, TABLE, RUNS, SCENARIO, REPORT):
        (folder / name).unlink(missing_ok=True)
    for part in (LAYOUTS, FIGURES):
        for file in sorted((folder / part).glob("*")):
            file.unlink()
