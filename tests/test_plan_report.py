"""How plans look on the terminal, in figures and as a page: from the plain values of ``plan.json``."""

from typing import Any

import pytest
from rich.console import Console

from kvsim.report.plan_figures import plan_figures
from kvsim.report.plan_page import plan_page
from kvsim.report.plan_table import layout_text, network_table, plan_table, shown_rows
from kvsim.report.style import figure_bytes


def row(mode: str, prefill: int, decode: int, goodput: float, **changes: Any) -> dict[str, Any]:
    return {
        "layout": f"{mode}-{prefill}x4-{decode}x4",
        "mode": mode,
        "prefill_workers": prefill,
        "prefill_tensor_parallel": 4,
        "decode_workers": decode,
        "decode_tensor_parallel": 4 if decode else 0,
        "gpus": 4 * (prefill + decode),
        "goodput_req_per_s": goodput,
        "goodput_low": 0.9 * goodput,
        "goodput_high": None,
        "goodput_per_gpu": goodput / (4 * (prefill + decode)),
        "ttft_p90_s": 0.25,
        "tpot_p90_s": 0.0312,
        "e2e_mean_s": 4.0,
        "cost_per_million_output_tokens": 1.25,
        "binding": "decode KV memory",
        "pareto": True,
        "run": f"{mode}@{goodput:g}#1",
        **changes,
    }


def plan_document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    run = {"run": "pull@12#1", "rate_per_s": 12.0, "requests": 1000, "attainment": 0.91, "low": 0.9, "high": 0.92}
    return {
        "kind": "cluster",
        "scenario": "<chat>",
        "kvsim_version": "0",
        "seed": 1,
        "gpus": 32,
        "gpu": "h100-sxm",
        "model": "llama",
        "requests_per_run": 1000,
        "winner": rows[0]["layout"],
        "best_colocated": rows[-1]["layout"],
        "findings": ["pull carries most: 12 req/s & more."],
        "cost": {"currency": "EUR", "gpu_hour": 2.5, "utilisation_hours_per_year": 6000.0},
        "return_on_investment": {
            "load_per_s": 12.0,
            "disaggregated_gpus": 32,
            "colocated_gpus": 40,
            "colocated_gpus_low": None,
            "colocated_gpus_high": 44,
            "gpu_saving_per_year": 120_000.0,
            "nic_investment": 48_000.0,
            "integration": 100_000.0,
            "payback_years": 1.2333,
            "years": 4.0,
            "net": 332_000.0,
            "runs": ["pull@12#1", "colocated@9#1"],
        },
        "configurations": rows,
        "runs": [{**run, "binding": None}],
        "notes": ["a note"],
    }


def network_document() -> dict[str, Any]:
    cell = {"latency_ns": None, "nics_lost": 0, "prompt_tokens": 1000, "goodput_colocated": 10.0, "close": ""}
    cells = [
        {**cell, "bandwidth_bytes_per_s": 1.25e9, "winner": "colocated", "lead": 1.0, "advantage": -0.5},
        {
            **cell,
            "bandwidth_bytes_per_s": 5e10,
            "winner": "pull",
            "lead": 0.02,
            "advantage": 0.02,
            "close": "colocated",
        },
        {
            **cell,
            "prompt_tokens": 90_000,
            "bandwidth_bytes_per_s": 5e10,
            "winner": None,
            "lead": None,
            "advantage": None,
        },
    ]
    for one, goodput in zip(cells, (5.0, 10.2, 0.0), strict=True):
        one["goodput_pull"] = one["goodput_disaggregated"] = goodput
    cells[2]["goodput_colocated"] = 0.0
    return {**plan_document([row("pull", 1, 1, 1.0)]), "kind": "network", "cells": cells, "return_on_investment": None}


ROWS = [row("pull", 10, 3, 12.0), row("push", 4, 4, 11.0, pareto=False), row("colocated", 8, 0, 9.0)]


def printed(table: Any) -> list[str]:
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_table_has_goodput_latency_cost_and_what_binds_in_80_columns() -> None:
    lines = printed(plan_table(plan_document(ROWS)))
    assert lines[1].split()[:2] == ["layout", "req/s"]
    assert lines[3].split()[:8] == ["*", "10×tp4+3×tp4", "pull", "12.0", "0.231", "250", "31.2", "4.00"]
    assert "EUR/M" in lines[1]
    assert "1.2" in lines[3]
    assert not lines[5].startswith("*")
    assert "decode" in lines[3]
    assert "memory" in " ".join(lines[3:5])
    assert max(len(line) for line in lines) <= 80


def test_the_best_colocated_layout_is_shown_however_far_down_it_stands() -> None:
    rows = [*[row("pull", place + 1, 1, 20.0 - place) for place in range(5)], row("colocated", 8, 0, 1.0)]
    assert [each["layout"] for each in shown_rows(plan_document(rows), 2)] == [
        "pull-1x4-1x4",
        "pull-2x4-1x4",
        "colocated-8x4-0x4",
    ]


def test_layouts_that_meet_no_limit_are_left_out() -> None:
    rows = [*ROWS[:2], row("pull", 1, 1, 0.0, e2e_mean_s=None), ROWS[2]]
    document = plan_document(rows)
    assert len(shown_rows(document, 10)) == 3
    assert "1×tp4+1×tp4" not in plan_page(document, plan_figures(document))


def test_a_plan_without_costs_has_no_price_column() -> None:
    document = {**plan_document(ROWS), "cost": None, "return_on_investment": None}
    assert "/M" not in "\n".join(printed(plan_table(document)))
    assert "Return on investment" not in plan_page(document, {})


def test_the_map_says_who_wins_and_where_it_is_close() -> None:
    lines = printed(network_table(network_document()))
    assert lines[-3].split() == ["1,000", "10", "10.0", "5.0", "colocated", "+100", "%", "-50", "%"]
    assert lines[-2].split() == ["1,000", "400", "10.0", "10.2", "pull", "≈", "+2", "%", "+2", "%"]
    assert lines[-1].split() == ["90,000", "400", "0.0", "0.0", "none", "–", "–"]


def test_the_page_shows_findings_investment_and_runs_with_text_escaped() -> None:
    document = plan_document(ROWS)
    page = plan_page(document, plan_figures(document))
    assert "&lt;chat&gt;: plan" in page
    assert "<chat>" not in page
    assert "12 req/s &amp; more." in page
    for text in ("40 (? .. 44)", "120,000 EUR", "1.23 years", "+332,000 EUR", "pull@12#1, colocated@9#1", "All 1 runs"):
        assert text in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("document", [plan_document(ROWS), network_document()], ids=["cluster", "network"])
def test_figures_are_the_same_bytes_every_time(document: dict[str, Any]) -> None:
    one, other = plan_figures(document), plan_figures(document)
    assert len(one) == 2
    for name, figure in one.items():
        assert figure_bytes(figure, "svg") == figure_bytes(other[name], "svg")


def test_the_map_figure_names_the_winner_of_each_cell() -> None:
    figure = plan_figures(network_document())["break_even"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["colocated\n-50 %", "pull ≈\n+2 %", "none\n–"]


def test_a_layout_in_few_letters() -> None:
    assert layout_text(ROWS[0]) == "10×tp4+3×tp4 pull"
    assert layout_text(ROWS[2]) == "8×tp4 colocated"
