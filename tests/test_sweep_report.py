"""How a sweep looks: lines and bands where the statistics say, heat maps for two long knobs, and the terminal table."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from rich.console import Console

from kvsim.report.style import figure_bytes, variant_looks
from kvsim.report.sweep_figure import sweep_figures
from kvsim.report.sweep_looks import short_names
from kvsim.report.sweep_table import ROWS_MAX, points_progress, sweep_table
from kvsim.sweep.conduct import run_sweep
from kvsim.sweep.result import TABLE, SweepResult
from kvsim.sweep.table import Layout

SMALL = Path(__file__).parent / "golden" / "small.yaml"
RATE, COUNT = "workload.arrivals.rate (req/s)", "workers.decode.count"
VARIANTS = ["pull", "push"]


def make_statistics(knobs: dict[str, list[object]], seeds: int = 3) -> pd.DataFrame:
    """Made up: pull's mean E2E is the place of the combination + 1 s, push's twice that, give or take a tenth."""
    cells = pd.MultiIndex.from_product(list(knobs.values()), names=list(knobs)).to_frame(index=False)
    rows: list[dict[Any, Any]] = []
    for cell, values in enumerate(cells.to_dict("records")):
        for factor, variant in enumerate(VARIANTS, 1):
            for metric, mean in (("e2e_s.mean", factor * (cell + 1.0)), ("ttft_s.p99", 0.01 * factor)):
                reach = mean / 10 if seeds > 1 else np.nan
                numbers = {"mean": mean, "low": mean - reach, "high": mean + reach, "seeds": seeds}
                rows.append({"cell": cell, **values, "variant": variant, "metric": metric, **numbers})
    return pd.DataFrame(rows)


def make_differences(statistics: pd.DataFrame) -> pd.DataFrame:
    rows = statistics[statistics["variant"] == "push"].copy()
    rows["base_mean"] = rows["mean"] / 2
    rows["mean"] = rows["base_mean"]
    rows["high"] = rows["mean"] * 1.1
    return rows


def panel_of(figure: Figure, title: str) -> Axes:
    return next(panel for panel in figure.axes if panel.get_title(loc="left") == title)


def line_of(panel: Axes, variant: str) -> tuple[list[float], list[float]]:
    line = next(line for line in panel.get_lines() if line.get_label() == variant)
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def table_text(statistics: pd.DataFrame, knobs: list[str], differences: pd.DataFrame | None = None) -> list[str]:
    buffer = io.StringIO()
    changes = make_differences(statistics) if differences is None else differences
    Console(file=buffer, width=80).print(sweep_table(statistics, changes, knobs))
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


def test_one_knob_gives_a_panel_per_metric_with_a_line_and_a_band_per_variant() -> None:
    figures = sweep_figures(make_statistics({RATE: [4.0, 2.0, 3.0]}), [RATE], VARIANTS)
    assert list(figures) == ["sweep"]
    panel = panel_of(figures["sweep"], "E2E mean")
    assert line_of(panel, "pull") == ([2, 3, 4], [2, 3, 1])  # in the order of the numbers, not of the grid
    assert line_of(panel, "push") == ([2, 3, 4], [4, 6, 2])
    bands = [artist for artist in panel.collections if isinstance(artist, PolyCollection)]
    heights = np.asarray(bands[1].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((1.8, 6.6))
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("arrivals.rate (req/s)", "s")
    ttft = panel_of(figures["sweep"], "TTFT p99")
    assert ttft.get_ylabel() == "ms"
    assert line_of(ttft, "push")[1] == pytest.approx([20, 20, 20])
    colours = {line.get_label(): line.get_color() for line in panel.get_lines()}
    assert colours == {name: look.colour for name, look in variant_looks(VARIANTS).items()}
    texts = [text.get_text() for text in figures["sweep"].legends[0].get_texts()]
    assert texts == ["pull", "push", "95 % interval over seeds"]


def test_one_seed_has_no_band_in_the_legend() -> None:
    (figure,) = sweep_figures(make_statistics({RATE: [1.0, 2.0]}, seeds=1), [RATE], VARIANTS).values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == VARIANTS


def test_names_stand_side_by_side_and_wide_ranges_on_a_logarithmic_scale() -> None:
    (figure,) = sweep_figures(make_statistics({"transfer.mode": ["b", "a"]}), ["transfer.mode"], VARIANTS).values()
    panel = panel_of(figure, "E2E mean")
    assert line_of(panel, "pull")[0] == [0, 1]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["b", "a"]
    (figure,) = sweep_figures(make_statistics({RATE: [1.0, 10.0, 100.0]}), [RATE], VARIANTS).values()
    assert panel_of(figure, "E2E mean").get_xscale() == "log"


def test_latencies_that_explode_are_drawn_on_a_logarithmic_scale() -> None:
    statistics = make_statistics({RATE: [1.0, 2.0]})
    statistics.loc[(statistics["cell"] == 1) & (statistics["metric"] == "e2e_s.mean"), "mean"] *= 100
    (figure,) = sweep_figures(statistics, [RATE], VARIANTS).values()
    panel = panel_of(figure, "E2E mean")
    assert (panel.get_yscale(), panel.get_ylabel()) == ("log", "s (log scale)")


def test_two_knobs_give_panels_side_by_side_on_one_scale() -> None:
    knobs: dict[str, list[object]] = {COUNT: [1, 2], RATE: [1.0, 2.0, 3.0]}
    (figure,) = sweep_figures(make_statistics(knobs), list(knobs), VARIANTS).values()
    left, right = (panel_of(figure, f"decode.count: {count}") for count in (1, 2))
    assert line_of(left, "pull") == ([1, 2, 3], [1, 2, 3])
    assert line_of(right, "pull") == ([1, 2, 3], [4, 5, 6])
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylabel() == "E2E mean\ns"


def test_two_knobs_with_many_values_give_heat_maps_with_common_colours() -> None:
    knobs: dict[str, list[object]] = {COUNT: [1, 2, 3, 4, 5], RATE: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    (figure,) = sweep_figures(make_statistics(knobs), list(knobs), VARIANTS).values()
    pull, push = (panel_of(figure, f"{name}: E2E mean (s)").get_images()[0] for name in VARIANTS)
    values = np.asarray(pull.get_array())
    assert values.shape == (5, 6)
    assert values[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert pull.get_clim() == push.get_clim() == (1, 60)


def test_more_knobs_give_a_figure_per_combination_of_the_others() -> None:
    knobs: dict[str, list[object]] = {COUNT: [1, 2], RATE: [1.0, 2.0, 3.0], "transfer.mode": ["push", "pull"]}
    figures = sweep_figures(make_statistics(knobs), list(knobs), VARIANTS)
    assert list(figures) == ["sweep-1", "sweep-2"]
    titles = [figure.get_suptitle() for figure in figures.values()]
    assert titles == [f"Sweep over arrivals.rate and decode.count, transfer.mode = {mode}" for mode in ("push", "pull")]


def test_seeds_alone_give_a_point_with_a_bar_per_variant() -> None:
    statistics = make_statistics({RATE: [1.0]}).drop(columns=RATE)
    (figure,) = sweep_figures(statistics, [], VARIANTS).values()
    panel = panel_of(figure, "E2E mean")
    assert [text.get_text() for text in panel.get_xticklabels()] == VARIANTS
    assert figure.get_suptitle() == "Sweep over seeds"


def test_a_combination_without_a_value_leaves_a_gap() -> None:
    statistics = make_statistics({RATE: [1.0, 2.0]})
    statistics = statistics[(statistics["cell"] == 1) | (statistics["metric"] != "e2e_s.mean")]
    (figure,) = sweep_figures(statistics, [RATE], VARIANTS).values()
    assert line_of(panel_of(figure, "E2E mean"), "pull") == ([2], [2])


def test_figures_have_the_same_bytes_every_time() -> None:
    statistics = make_statistics({RATE: [1.0, 2.0]})
    one, two = (sweep_figures(statistics, [RATE], VARIANTS)["sweep"] for _ in range(2))
    assert figure_bytes(one, "svg") == figure_bytes(two, "svg")


def test_a_sweep_writes_its_figures_and_takes_old_ones_away(tmp_path: Path) -> None:
    options = ["workload.requests=4", *(f"variants.{name}=null" for name in ("streamed", "message", "colocated"))]
    run_sweep(SMALL, ["slo.ttft=1 ms,2 ms"], 1, tmp_path / "s", workers=1, overrides=options)
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == ["points.jsonl", TABLE, "sweep.png", "sweep.svg"]
    (tmp_path / "s" / "sweep-2.svg").write_text("of a larger grid")
    (tmp_path / "s" / "sweep-mine.svg").write_text("of the user")
    run_sweep(SMALL, ["slo.ttft=1 ms,2 ms"], 1, tmp_path / "s", workers=1, overrides=options)
    assert not (tmp_path / "s" / "sweep-2.svg").exists()
    assert (tmp_path / "s" / "sweep-mine.svg").exists()


def test_the_table_shows_means_with_their_reach_and_the_change_against_the_first_variant() -> None:
    lines = table_text(make_statistics({RATE: [1.0, 2.5]}), [RATE])
    assert [line.split() for line in lines[-4:]] == [
        ["1", "pull", "1.00", "±0.10", "10.0", "±1.0"],
        ["1", "push", "2.00", "±0.20", "20.0", "±2.0", "+100.0", "±10.0"],
        ["2.5", "pull", "2.00", "±0.20", "10.0", "±1.0"],
        ["2.5", "push", "4.00", "±0.40", "20.0", "±2.0", "+100.0", "±10.0"],
    ]
    assert "E2E mean" in " ".join(lines)
    assert all(len(line) <= 80 for line in lines)


def test_where_an_objective_is_set_the_table_shows_its_share_and_the_goodput_in_80_columns() -> None:
    statistics = make_statistics({RATE: [1.0]}).drop(columns=RATE)
    extra = [("tpot_s.p99", 0.02), ("slo_attainment", 0.744), ("goodput_req_per_s", 6.27)]
    rows = [
        {
            "cell": 0,
            "variant": variant,
            "metric": metric,
            "mean": mean,
            "low": mean * 0.9,
            "high": mean * 1.1,
            "seeds": 3,
        }
        for variant in VARIANTS
        for metric, mean in extra
    ]
    statistics = pd.concat([statistics, pd.DataFrame(rows)], ignore_index=True)
    lines = table_text(statistics, [])
    heading = " ".join(" ".join(lines[:3]).split())
    assert "TPOT" not in heading
    assert lines[-2].split() == ["pull", "1.00", "±0.10", "10.0", "±1.0", "74.4", "±7.4", "6.27", "±0.63"]
    assert all(len(line) <= 80 for line in lines)


def test_the_table_of_one_seed_has_no_reach_and_a_long_one_ends() -> None:
    statistics = make_statistics({COUNT: list(range(40))}, seeds=1)
    lines = table_text(statistics, [COUNT], statistics.iloc[:0].assign(base_mean=0.0))
    assert "±" not in "".join(lines)
    assert f"{2 * 40 - ROWS_MAX} more rows are in the table file" in lines[-1]


@pytest.mark.parametrize(
    ("columns", "short"),
    [
        (["workload.arrivals.rate (req/s)"], ["arrivals.rate (req/s)"]),
        (["workers.a.nic.rate", "workers.b.nic.rate"], ["a.nic.rate", "b.nic.rate"]),
        (["slo.ttft (ms)", "x"], ["slo.ttft (ms)", "x"]),
    ],
)
def test_long_names_are_cut_as_far_as_they_differ(columns: list[str], short: list[str]) -> None:
    assert list(short_names(columns).values()) == short


def test_progress_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    with points_progress() as bar:
        bar.advance_to("checking", 4, 4)
        bar.advance_to("simulating", 1, 4)
        bar.advance_to("simulating", 2, 4)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "simulating" in text
    assert re.search(r"2/4 .*\d:\d\d left", text)


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with points_progress() as bar:
        bar.advance_to("simulating", 1, 4)
    assert capsys.readouterr() == ("", "")


def test_a_result_that_was_made_by_hand_has_statistics(tmp_path: Path) -> None:
    table = pd.DataFrame({"cell": [0, 0], "seed": [1, 2], "variant": ["a", "a"], "e2e_s.mean": [1.0, 3.0]})
    result = SweepResult(tmp_path, Layout("x", (), ("a",)), table)
    row = result.statistics().iloc[0]
    assert row["mean"] == 2
    assert row["high"] == pytest.approx(2 + 12.7062, rel=1e-4)  # t(1) = 12.706, s / sqrt(2) = 1
    assert result.differences().empty
