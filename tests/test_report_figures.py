"""The figures: what they show, in which units and colours, and that their bytes never change. No pixels."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from test_report_inputs import NS, make_requests, make_summary, make_workers

from kvsim.report.figures import (
    POINTS_PER_CURVE,
    POINTS_PER_SERIES,
    draw_figures,
    latency_cdf_figure,
    load_figure,
    memory_figure,
    save_figures,
)
from kvsim.report.role_figure import CHANGES, ROLE_COLOURS, role_changes, role_figure
from kvsim.report.stage_figure import stage_breakdown_figure
from kvsim.report.style import STAGES, figure_bytes, variant_looks

VARIANTS = ["pull", "push", "colocated"]


@pytest.fixture(scope="module")
def requests() -> pd.DataFrame:
    return make_requests()


@pytest.fixture(scope="module")
def workers() -> pd.DataFrame:
    return make_workers()


def _panel(figure: Figure, title_start: str) -> Axes:
    (panel,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(title_start)]
    return panel


def _lines(panel: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in panel.get_lines()}


def _one_variant_requests(latencies_s: list[float]) -> pd.DataFrame:
    rows = make_requests(len(latencies_s))
    rows = rows[rows["variant"] == "pull"].reset_index(drop=True)
    rows["arrival_ns"] = 0
    rows["first_token_ns"] = pd.array([round(seconds * NS) for seconds in latencies_s], dtype="Int64")
    rows["finished_ns"] = rows["first_token_ns"] + 9 * NS
    rows["output_tokens"] = pd.array([10] * len(latencies_s), dtype="Int64")
    return rows


def test_a_cdf_rises_by_an_equal_share_at_each_latency() -> None:
    figure = latency_cdf_figure(_one_variant_requests([4.0, 1.0, 3.0, 2.0]))
    line = _lines(_panel(figure, "TTFT"))["pull"]
    assert np.asarray(line.get_xdata()).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert np.asarray(line.get_ydata()).tolist() == [25.0, 50.0, 75.0, 100.0]
    assert _panel(figure, "TTFT").get_xlabel() == "s"


def test_tpot_is_the_time_after_the_first_token_over_the_other_tokens() -> None:
    line = _lines(_panel(latency_cdf_figure(_one_variant_requests([1.0, 1.0])), "TPOT"))["pull"]
    assert np.asarray(line.get_xdata()).tolist() == [1.0, 1.0]  # 9 s for 9 tokens after the first


def test_a_latency_axis_is_logarithmic_only_beyond_two_decades() -> None:
    narrow = latency_cdf_figure(_one_variant_requests([0.1, 9.0]))
    wide = latency_cdf_figure(_one_variant_requests([0.1, 11.0]))
    assert _panel(narrow, "TTFT").get_xscale() == "linear"
    assert _panel(wide, "TTFT").get_xscale() == "log"
    assert _panel(wide, "TTFT").get_xlabel() == "s (log scale)"


def test_rejected_requests_and_variants_without_transfers_have_no_latency(requests: pd.DataFrame) -> None:
    figure = latency_cdf_figure(requests)
    transfer = _panel(figure, "transfer")
    assert list(_lines(transfer)) == ["pull", "push"]
    assert [text.get_text() for text in transfer.texts] == ["none: colocated"]
    push = requests[(requests["variant"] == "push") & requests["first_token_ns"].notna()]
    longest_s = float((push["finished_ns"] - push["arrival_ns"]).max()) / NS
    assert float(np.asarray(_lines(_panel(figure, "E2E"))["push"].get_xdata()).max()) == longest_s


def test_long_runs_are_drawn_with_few_points_and_keep_their_extremes() -> None:
    figure = latency_cdf_figure(_one_variant_requests([0.5 + number / 1000 for number in range(5000)]))
    x = np.asarray(_lines(_panel(figure, "TTFT"))["pull"].get_xdata())
    assert (len(x), x[0], x[-1]) == (POINTS_PER_CURVE, 0.5, 5.499)


def test_no_finished_request_at_all_still_gives_a_figure(requests: pd.DataFrame) -> None:
    rejected = requests[requests["first_token_ns"].isna()]
    figure = latency_cdf_figure(rejected, ["push"])
    assert all(not panel.get_lines() for panel in figure.axes)
    assert figure_bytes(figure, "svg").startswith(b"<?xml")


def test_variants_keep_their_colours_in_every_figure(requests: pd.DataFrame, workers: pd.DataFrame) -> None:
    looks = variant_looks(VARIANTS)
    curves = _lines(_panel(latency_cdf_figure(requests), "TTFT"))
    loads = _lines(_panel(load_figure(workers), "decode GPUs"))
    only_push = _lines(_panel(load_figure(workers[workers["variant"] != "pull"], VARIANTS[1:]), "decode GPUs"))
    for name in ("pull", "push"):
        assert curves[name].get_color() == loads[name].get_color() == looks[name].colour
        assert curves[name].get_linestyle() == {"pull": "-", "push": "--"}[name]
    assert only_push["push"].get_color() == looks["pull"].colour  # by place: callers give all variants to keep them


def test_stage_bars_follow_each_other_and_end_at_the_mean_latency() -> None:
    summary = make_summary()
    panel = stage_breakdown_figure(summary).axes[0]
    assert [text.get_text() for text in panel.get_yticklabels()] == VARIANTS
    for place, variant in enumerate(summary["variants"].values()):
        bars = [bars.patches[place] for bars in panel.containers]  # type: ignore[attr-defined]
        seconds = [variant["stages_s"][stage.key] for stage in STAGES]
        assert [bar.get_width() for bar in bars] == pytest.approx(seconds)
        assert [to_hex(bar.get_facecolor()) for bar in bars] == [stage.colour.lower() for stage in STAGES]
        assert bars[0].get_x() == 0
        for left, right in pairwise(bars):
            assert right.get_x() == pytest.approx(left.get_x() + left.get_width())
        assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(variant["e2e_s"]["mean"])
    assert panel.get_xlabel() == "mean time per request (s)"


def test_only_segments_with_room_carry_their_number_and_every_bar_its_total() -> None:
    summary = make_summary()
    summary["variants"] = {"pull": summary["variants"]["pull"]}
    summary["variants"]["pull"]["stages_s"] = {"prefill": 0.01, "decode": 1.0}
    texts = [text.get_text().strip() for text in stage_breakdown_figure(summary).axes[0].texts]
    assert texts == ["1.00", "1.01 s"]


def test_memory_panels_show_reserved_and_filled_shares_of_the_role_s_pool() -> None:
    rows = make_workers(4)
    rows = rows[(rows["variant"] == "push") & (rows["role"] == "decode")].copy()  # two workers of 12,000 blocks
    rows["kv_filled_blocks"], rows["kv_reserved_blocks"] = 3_000, 6_000
    figure = memory_figure(rows)
    panel = _panel(figure, "push, decode: pool of 24,000 blocks")
    lines = _lines(panel)
    assert np.asarray(lines["filled"].get_ydata()).tolist() == [25.0] * 4
    assert np.asarray(lines["reserved"].get_ydata()).tolist() == [50.0] * 4
    assert np.asarray(lines["filled"].get_xdata()).tolist() == [0.0, 0.5, 1.0, 1.5]
    (gap,) = [artist for artist in panel.collections if isinstance(artist, PolyCollection)]
    heights = np.asarray(gap.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (25.0, 50.0)
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("% of the pool", "time (s)")


def test_there_is_a_memory_panel_per_role_and_equal_roles_share_their_scale(workers: pd.DataFrame) -> None:
    figure = memory_figure(workers)
    titles = [panel.get_title(loc="left").split(":")[0] for panel in figure.axes]
    assert titles == ["pull, prefill", "pull, decode", "push, prefill", "push, decode", "colocated"]
    assert _panel(figure, "pull, decode").get_ylim() == _panel(figure, "push, decode").get_ylim()


def test_neighbouring_samples_are_averaged_by_the_length_of_their_intervals() -> None:
    rows = make_workers(2 * POINTS_PER_SERIES)
    rows = rows[(rows["variant"] == "pull") & (rows["worker"] == "prefill-0")].copy()
    rows["busy"] = [1.0, 0.0] * POINTS_PER_SERIES
    rows["interval_ns"] = [3, 1] * POINTS_PER_SERIES
    line = _lines(_panel(load_figure(rows), "prefill GPUs"))["pull"]
    assert np.asarray(line.get_ydata()).tolist() == [75.0] * POINTS_PER_SERIES


def test_load_shows_mean_busy_and_the_sum_of_the_busier_direction() -> None:
    rows = make_workers(3)
    rows["busy"] = np.where(rows["worker"].isin(["prefill-0", "decode-2"]), 0.2, 0.6)
    rows["sent_bytes_per_s"] = np.where(rows["role"] == "prefill", 2e9, 0.0)
    rows["received_bytes_per_s"] = np.where(rows["role"] == "decode", 1.5e9, 0.0)
    figure = load_figure(rows)
    assert np.asarray(_lines(_panel(figure, "prefill GPUs"))["pull"].get_ydata()).tolist() == pytest.approx([40.0] * 3)
    assert np.asarray(_lines(_panel(figure, "prefill links: sent"))["pull"].get_ydata()).tolist() == [4.0] * 3
    assert np.asarray(_lines(_panel(figure, "decode links: received"))["push"].get_ydata()).tolist() == [3.0] * 3
    assert not _panel(figure, "colocated links: no traffic").get_lines()
    assert _panel(figure, "prefill links").get_ylabel() == "link rate, all workers (GB/s)"


def test_legends_stand_below_the_panels(requests: pd.DataFrame, workers: pd.DataFrame) -> None:
    for figure in (latency_cdf_figure(requests), load_figure(workers), memory_figure(workers)):
        figure_bytes(figure, "png")  # lays out
        (legend,) = figure.legends
        top = legend.get_window_extent().y1
        assert all(panel.get_window_extent().y0 > top for panel in figure.axes)


def test_a_dollar_sign_in_a_variant_name_is_no_formula() -> None:
    rows = _one_variant_requests([1.0])
    rows["variant"] = "cost $5 or $6"
    figure = latency_cdf_figure(rows)
    assert figure.legends[0].get_texts()[0].get_text() == r"cost \$5 or \$6"


def test_a_caller_s_settings_neither_change_nor_are_changed(requests: pd.DataFrame) -> None:
    plain = figure_bytes(latency_cdf_figure(requests), "svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "mine"}):
        before = dict(matplotlib.rcParams)
        assert figure_bytes(latency_cdf_figure(requests), "svg") == plain
        assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in vars(sys.modules["kvsim.report.figures"])


def test_save_figures_writes_each_as_svg_and_png(tmp_path: Path) -> None:
    paths = save_figures(tmp_path / "figures", draw_figures(make_summary(), make_requests(40), make_workers(20)))
    assert [path.name for path in paths] == [
        f"{stem}.{suffix}" for stem in ("latency", "stages", "memory", "load") for suffix in ("svg", "png")
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"<?xml" if path.suffix == ".svg" else b"\x89PNG")
        assert b"<dc:date>" not in path.read_bytes()


DIGESTS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_report_inputs import make_requests, make_workers
from kvsim.report.figures import latency_cdf_figure, memory_figure
from kvsim.report.style import figure_bytes, settle_layout
figures = settle_layout(latency_cdf_figure(make_requests(40))), settle_layout(memory_figure(make_workers(20)))
digests = [hashlib.sha256(figure_bytes(figures[0], "svg")), hashlib.sha256(figure_bytes(figures[1], "png"))]
print(*(digest.hexdigest() for digest in digests))
"""


def test_figures_have_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS, str(tests)],
            check=True,
            capture_output=True,
            text=True,
            cwd=tests.parent,
            env={"PYTHONHASHSEED": seed, "HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_configdir()},
        )
        for seed in ("1", "77")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.split()) == 2


def test_the_figure_of_roles_has_a_lane_for_each_worker_and_pieces_for_what_it_did() -> None:
    """Worker b drains in the second half of the second interval and switches in the third, of 10 s each."""
    rows = pd.DataFrame(
        {
            "variant": "swings",
            "worker": ["a"] * 4 + ["b"] * 4,
            "role": ["prefill"] * 4 + ["decode", "decode", "prefill", "prefill"],
            "time_ns": [0, 10 * NS, 20 * NS, 30 * NS] * 2,
            "interval_ns": 10 * NS,
            "draining": [0.0] * 4 + [0.0, 0.5, 0.0, 0.0],
            "switching": [0.0] * 4 + [0.0, 0.0, 0.2, 0.0],
        }
    )
    (panel,) = role_figure(rows, ["swings"]).axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a", "b"]
    bars = [
        (to_hex(bar.get_facecolor()).upper(), round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width())
        for bar in panel.patches
        if isinstance(bar, Rectangle)
    ]
    prefill, decode = ROLE_COLOURS["prefill"].upper(), ROLE_COLOURS["decode"].upper()
    assert bars == [
        (prefill, 0, 0.0, 40.0),
        (decode, -1, 0.0, 20.0),
        (prefill, -1, 20.0, 20.0),
        (CHANGES["draining"].upper(), -1, 10.0, 5.0),
        (CHANGES["switching"].upper(), -1, 20.0, pytest.approx(2.0)),
    ]
    summary = {"variants": {"still": {"role_switches": {"count": 0}}, "swings": {"role_switches": {"count": 1}}}}
    assert role_changes(summary) == ["swings"]
