"""The comparison table: golden text, units, best values, narrow terminals; and the silent progress bar."""

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from test_report_inputs import make_summary

from kvsim.report.progress import run_progress
from kvsim.report.style import decimals_for, duration_texts, number_text, time_unit, variant_looks
from kvsim.report.terminal import Row, comparison_sections, comparison_table, print_table


def _spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "p50": mean * 0.5, "p90": mean * 2, "p99": mean * 4}


def _tiny_variant(mean_s: float, role: str, *, moves: bool) -> dict[str, Any]:
    return {
        "requests": {"arrived": 10, "finished": 9, "rejected": 1},
        "ttft_s": _spread(mean_s / 10),
        "tpot_s": _spread(0.02),
        "itl_s": _spread(0.03),
        "e2e_s": _spread(mean_s),
        "transfer_s": _spread(0.0004) if moves else None,
        "prefill_queue_s": _spread(0.05),
        "decode_queue_s": None,
        "stages_s": {"prefill_queue": 0.05, "prefill": 0.1, "decode": mean_s - 0.15},
        "gpu_busy": {role: 0.5},
        "kv_reserved_unfilled_block_s": {role: 12.5},
        "kv_held_block_s": {role: 20.0},
        "link_utilisation": {role: {"sent": 0.25 if moves else 0.0, "received": 0.0}},
        "slo_attainment": 0.9 if moves else 0.8,
        "goodput_req_per_s": 1.25,
        "throughput": {"requests_per_s": 1.5, "output_tokens_per_s": 100.0},
        "makespan_s": 6.0,
        "transfers": {"count": 9, "bytes": 1, "operations": 1, "bytes_per_operation": 1.0},
        "preemptions": 0,
        "notes": [],
    }


def _tiny_summary() -> dict[str, Any]:
    variants = {
        "pull": _tiny_variant(2.0, "prefill", moves=True),
        "colocated": _tiny_variant(2.5, "colocated", moves=False),
    }
    return {"scenario": "tiny", "seed": 1, "kvsim_version": "0", "variants": variants}


def _lines(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


GOLDEN = """
                         unit      pull  colocated
──────────────────────────────────────────────────
Requests
 finished                             9          9
 rejected                             1          1
Latency
 TTFT p50                ms         100        125
 TTFT p99                s         0.80       1.00
 TPOT p50                ms        10.0       10.0
 TPOT p99                ms        80.0       80.0
 ITL p99                 ms         120        120
 E2E mean                s         2.00       2.50
 E2E p50                 s         1.00       1.25
 E2E p99                 s          8.0       10.0
 E2E mean vs pull        %            –      +25.0
Transfer and queues
 transfer p50            µs         200          –
 transfer p99            ms        1.60          –
 prefill queue p99       ms         200        200
Use of the hardware
 GPU busy, prefill       %         50.0          –
 GPU busy, colocated     %            –       50.0
 KV unfilled, prefill    block·s   12.5          –
 KV unfilled, colocated  block·s      –       12.5
 link sent, prefill      %         25.0          –
Service
 SLO attainment          %         90.0       80.0
 goodput                 req/s     1.25       1.25
Mean time by stage
 prefill queue           s        0.050      0.050
 prefill                 s        0.100      0.100
 decode                  s        1.850      2.350
"""


def test_the_table_of_a_tiny_summary_is_this_text() -> None:
    assert _lines(comparison_table(_tiny_summary()), 100) == GOLDEN.strip("\n").splitlines()


def test_a_piped_table_has_no_control_codes_and_fits_80_columns_with_five_modes() -> None:
    summary = make_summary()
    made = summary["variants"]
    five = {"pull": "pull", "push": "push", "streamed": "pull", "message": "push", "colocated": "colocated"}
    summary["variants"] = {name: made[source] for name, source in five.items()}
    lines = _lines(comparison_table(summary), 80)
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line or "…" in line for line in lines)
    assert lines[0].split() == ["unit", *five]
    assert len(lines) == 2 + sum(1 + len(section.rows) for section in comparison_sections(summary))


def test_variants_that_do_not_fit_follow_in_a_second_table_with_every_row() -> None:
    summary = make_summary()
    pull = summary["variants"]["pull"]
    summary["variants"] = {f"ratio-{number}-to-{12 - number}": pull for number in range(1, 8)}
    lines = _lines(comparison_table(summary), 80)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(" TTFT p50") for line in lines) == 3
    folded = "".join("".join(line.split()) for line in lines)
    assert all(part in folded for part in ("ratio-1-to-1", "ratio-7-to-5"))


def test_markup_in_a_variant_name_is_shown_as_it_is() -> None:
    summary = _tiny_summary()
    summary["variants"]["[red]x"] = summary["variants"].pop("colocated")
    assert "[red]x" in _lines(comparison_table(summary), 100)[0]


def test_on_a_terminal_the_best_value_of_a_row_is_bold() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(comparison_table(_tiny_summary()))
    assert isinstance(console.file, io.StringIO)
    row = next(line for line in console.file.getvalue().splitlines() if "E2E mean " in line)
    assert re.search(r"\x1b\[1m +2\.00\x1b\[0m", row)
    assert "\x1b[1m" not in row.split("2.00", 1)[1]


def test_the_best_values_are_the_lowest_latency_and_the_highest_goodput_and_none_where_all_are_equal() -> None:
    rows = {row.label: row for section in comparison_sections(_tiny_summary()) for row in section.rows}
    assert rows["E2E p99"].best == (True, False)
    assert rows["SLO attainment"].best == (True, False)
    assert rows["TPOT p50"].best == (False, False)
    assert rows["GPU busy, prefill"].best == (False, False)
    assert rows["decode"].best == (True, False)


def test_a_million_block_seconds_are_shown_as_block_hours() -> None:
    summary = _tiny_summary()
    summary["variants"]["pull"]["kv_reserved_unfilled_block_s"]["prefill"] = 7.2e6
    rows = {row.label: row for section in comparison_sections(summary) for row in section.rows}
    assert (rows["KV unfilled, prefill"].unit, rows["KV unfilled, prefill"].texts[0]) == ("block·h", "2,000")


def test_a_summary_in_which_nothing_finished_still_has_a_table() -> None:
    summary = _tiny_summary()
    for variant in summary["variants"].values():
        variant["requests"] = {"arrived": 1, "finished": 0, "rejected": 1}
        variant["slo_attainment"] = variant["goodput_req_per_s"] = None
        variant["stages_s"] = dict.fromkeys(variant["stages_s"])
        for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "transfer_s", "prefill_queue_s"):
            variant[key] = None
    titles = [section.title for section in comparison_sections(summary)]
    assert titles == ["Requests", "Use of the hardware"]
    assert any("rejected" in line for line in _lines(comparison_table(summary), 80))


@pytest.mark.parametrize(
    ("seconds", "unit"), [([2.0, 0.001], "s"), ([0.9], "ms"), ([0.0009], "µs"), ([], "s"), ([0.0], "s")]
)
def test_the_largest_duration_decides_the_unit(seconds: list[float], unit: str) -> None:
    assert time_unit(seconds)[1] == unit


@pytest.mark.parametrize(
    ("values", "decimals"), [([123.0], 0), ([12.3, 45.0], 1), ([1.2], 2), ([52.0, 0.3], 2), ([0.0], 0), ([0.0001], 3)]
)
def test_decimals_show_three_digits_of_the_largest_and_two_of_the_smallest(values: list[float], decimals: int) -> None:
    assert decimals_for(values) == decimals


def test_what_would_look_like_zero_is_shown_as_less_than_the_last_digit() -> None:
    assert number_text(0.0004, 2) == "<0.01"
    assert number_text(0.0, 2) == "0.00"
    assert number_text(None, 2) == number_text(float("nan"), 2) == "–"


def test_durations_next_to_each_other_share_their_unit() -> None:
    assert duration_texts([0.367, 1.675]) == ["0.37 s", "1.68 s"]
    assert duration_texts([0.0456]) == ["45.6 ms"]


def test_more_variants_than_colours_still_look_different() -> None:
    looks = variant_looks([str(number) for number in range(28)])
    assert len({(look.colour, look.dashes) for look in looks.values()}) == 28


def test_progress_writes_nothing_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with run_progress(10, "simulating") as progress:
        progress.advance_to(5)
        progress.advance_to(10)
        assert not progress.is_shown
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_a_bar_on_a_terminal_and_ignores_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with run_progress(10, "simulating [pull]") as progress:
        assert progress.is_shown
        progress.advance_to(5)
        progress.advance_to(2)
        progress.advance_to(6, total=8, description="push")
    shown = terminal.getvalue()
    assert "simulating [pull]" in shown
    assert "push" in shown
    assert "75%" in shown
    assert "20%" not in shown


def test_print_table_writes_plain_text_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(comparison_table(_tiny_summary()))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == GOLDEN.strip("\n").splitlines()


def test_changes_of_role_are_rows_only_where_a_role_changed() -> None:
    still, changing = _tiny_variant(2.0, "prefill", moves=False), _tiny_variant(2.0, "prefill", moves=False)
    still["role_switches"] = {"count": 0, "draining_worker_s": 0.0, "switching_worker_s": 0.0}
    assert "role switches" not in {row.label for row in _rows(still, still)}
    changing["role_switches"] = {"count": 3, "draining_worker_s": 12.5, "switching_worker_s": 6.0}
    rows = {row.label: (row.unit, row.texts) for row in _rows(still, changing)}
    assert rows["role switches"] == ("", ("0", "3"))
    assert rows["draining, all workers"] == ("s", ("0.0", "12.5"))
    assert rows["switching, all workers"] == ("s", ("0.00", "6.00"))


def _rows(*variants: dict[str, Any]) -> list[Row]:
    summary = {"variants": {f"v{place}": variant for place, variant in enumerate(variants)}}
    return [row for section in comparison_sections(summary) for row in section.rows]
