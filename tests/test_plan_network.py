"""The break-even map: made-up goodputs for its arithmetic, a small simulated one for the whole."""

import json
from pathlib import Path

import pytest
from plan_worlds import found_at, planned
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.errors import KvsimError
from kvsim.plan import plan_network
from kvsim.plan.conditions import Condition, scenario_under
from kvsim.plan.ground import ground_of
from kvsim.plan.layouts import Layout, Side
from kvsim.plan.load import load_of
from kvsim.plan.network_result import Entry, NetworkPlan
from kvsim.scenario import load_scenario
from kvsim.workload.spec import GeneratedWorkload, LengthPairs, LognormalLength

GBIT = 1e9 / 8
COLOCATED = Layout(Side(2, 1), None, "colocated")
PULL = Layout(Side(1, 1), Side(1, 1), "pull")


def chart(rates: dict[float, tuple[float, float]]) -> NetworkPlan:
    """A map of one prompt length: (goodput colocated, goodput pull) by Gbit/s."""
    scenario = planned()
    ground = ground_of(scenario)
    load = load_of(ground.variant.workload, 1, 20)
    entries = []
    for rate, goodputs in rates.items():
        condition = Condition(rate * GBIT, None, 0, 1000)
        for layout, goodput in zip((COLOCATED, PULL), goodputs, strict=True):
            entries.append(Entry(condition, layout, load, found_at(goodput)))
    return NetworkPlan("made-up", 2, ground, load, tuple(entries), (1000,))


def test_break_even_lies_between_the_rates_where_the_lead_changes_sign() -> None:
    """-10 % at 10 Gbit/s, +10 % at 40: half-way on the logarithmic scale is 20 Gbit/s, which is 2.5 GB/s."""
    plan = chart({10: (10.0, 9.0), 40: (10.0, 11.0)})
    (row,) = plan.break_even_rows()
    assert row["bandwidth_bytes_per_s"] == pytest.approx(2.5e9)
    assert "stops paying below about 20 Gbit/s per NIC (between 10 Gbit/s and 40 Gbit/s)" in row["verdict"]
    assert "it carries 10% more at 40 Gbit/s per NIC" in row["verdict"]
    assert [cell["winner"] for cell in plan.cell_rows()] == ["colocated", "pull"]
    assert [cell["advantage"] for cell in plan.cell_rows()] == pytest.approx([-0.1, 0.1])
    assert [cell["lead"] for cell in plan.cell_rows()] == pytest.approx([1 / 9, 0.1])


@pytest.mark.parametrize(
    ("rates", "verdict", "bandwidth"),
    [
        ({10: (10.0, 11.0), 40: (10.0, 12.0)}, "pays at every bandwidth from 10 Gbit/s", 0.0),
        ({10: (10.0, 5.0), 40: (10.0, 8.0)}, "does not pay at any bandwidth; it carries 20% less at 40 Gbit/s", None),
        ({10: (10.0, 0.0), 40: (10.0, 0.0)}, "does not pay at any bandwidth; it meets no limit", None),
        ({10: (0.0, 0.0), 40: (0.0, 0.0)}, "no layout meets the limits", None),
        ({10: (0.0, 0.0), 40: (0.0, 5.0)}, "colocated meets no limit", 5e9),
    ],
)
def test_the_verdict_where_no_rate_divides(
    rates: dict[float, tuple[float, float]], verdict: str, bandwidth: float | None
) -> None:
    (row,) = chart(rates).break_even_rows()
    assert verdict in row["verdict"]
    assert row["bandwidth_bytes_per_s"] == pytest.approx(bandwidth)


def test_a_condition_changes_nics_and_prompts_alone() -> None:
    worker = {"gpu": "h100-sxm", "nic": "cx7-400g", "nics": 4}
    scenario = planned(workers={"prefill": {"role": "prefill", **worker}, "decode": {"role": "decode", **worker}})
    ground = ground_of(scenario)
    load = load_of(ground.variant.workload, 1, 50)
    variant = scenario_under(ground, load, Condition(25 * GBIT, 20_000, 1, 2310)).variants[0]
    nic = variant.hardware.workers[1].nic
    assert (nic.rate_bytes_per_s, nic.latency_ns, variant.hardware.workers[0].nics) == (25 * GBIT, 20_000, 3)
    assert nic.messages_per_s == ground.variant.hardware.workers[1].nic.messages_per_s
    assert isinstance(variant.workload, GeneratedWorkload)
    assert isinstance(variant.workload.lengths, LengthPairs)
    prompt = variant.workload.lengths.prompt_tokens
    assert prompt == LognormalLength(2310.0, 0.96, 4, 28100)  # twice the 1,155 of the scenario
    assert isinstance(ground.variant.workload, GeneratedWorkload)
    assert isinstance(ground.variant.workload.lengths, LengthPairs)
    assert variant.workload.lengths.output_tokens == ground.variant.workload.lengths.output_tokens


def test_a_trace_is_drawn_with_its_spread(tmp_path: Path) -> None:
    rows = [f"{index},{100 + 200 * (index % 2)},{40}" for index in range(10)]
    (tmp_path / "trace.csv").write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]) + "\n")
    ground = ground_of(planned(workload={"trace": {"path": str(tmp_path / "trace.csv"), "format": "csv"}}))
    load = load_of(ground.variant.workload, 1, 10)
    workload = scenario_under(ground, load, Condition(GBIT, None, 0, 400)).variants[0].workload
    assert isinstance(workload, GeneratedWorkload)
    assert isinstance(workload.lengths, LengthPairs)
    assert workload.lengths.prompt_tokens == LognormalLength(400.0, 0.5, 200, 600)


def test_disaggregation_pays_on_a_wide_network_and_not_on_a_narrow_one() -> None:
    """Long prompts, short answers and a tight limit between tokens: colocated prefills disturb decodes. At 1 Gbit/s the
    KV of a prompt alone takes seconds."""
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 4000}, "output_tokens": {"kind": "fixed", "tokens": 64}}
    workload = {"requests": 60, "arrivals": {"kind": "poisson", "rate": "1 req/s"}, "lengths": lengths}
    scenario = planned(workload=workload, slo={"ttft": "1 s", "tpot": "12 ms"})
    plan = plan_network(
        scenario, bandwidths=[GBIT, 400 * GBIT], prompt_tokens=[4000], modes=("pull",), requests=60, jobs=1
    )
    narrow, wide = plan.cell_rows()
    assert (narrow["winner"], wide["winner"]) == ("colocated", "pull")
    assert narrow["binding_pull"] == "network"
    assert narrow["goodput_colocated"] == wide["goodput_colocated"]
    (row,) = plan.break_even_rows()
    assert GBIT < row["bandwidth_bytes_per_s"] <= 400 * GBIT
    assert set(plan.cells["run_pull"].dropna()) <= set(plan.runs["run"])
    assert sorted(plan.winners()) == ["4000tok-1gbit", "4000tok-400gbit"]
    assert plan.winners()["4000tok-400gbit"].variants[0].cluster.policy.transfer_mode == "pull"


def test_the_map_is_written_with_figures_and_winners_that_load(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "model: llama-3.2-1b\n"
        "workers:\n"
        "  p: {role: prefill, gpu: h100-sxm, nic: cx7-400g, nics: 2}\n"
        "  d: {role: decode, gpu: h100-sxm, nic: cx7-400g, nics: 2}\n"
        "workload:\n"
        "  requests: 30\n"
        "  arrivals: {kind: poisson, rate: 5 req/s}\n"
        "  lengths: {prompt_tokens: {kind: fixed, tokens: 500}, output_tokens: {kind: fixed, tokens: 20}}\n"
        "slo: {ttft: 20 ms}\n"
    )
    options = ["--what", "network", "--bandwidth", "10 Gbit/s,400 Gbit/s", "--prompt-tokens", "500,900000"]
    options += ["--latency", "2 us", "--nics-lost", "1", "--requests", "60", "--jobs", "1"]
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "s.yaml"), *options, "--out", str(tmp_path / "map")])
    assert result.exception is None, result.output
    document = json.loads((tmp_path / "map" / "plan.json").read_text())
    assert len(document["cells"]) == 2
    assert document["notes"] == ["prompts of 900,000 tokens do not fit the model's context or the KV memory"]
    assert "Prompts of 500 tokens, latency 2 us, NICs lost: 1: " in document["findings"][0]
    for name in ("report.html", "figures/break_even.svg", "figures/goodput.png", "plan.parquet", "runs.parquet"):
        assert (tmp_path / "map" / name).stat().st_size > 0
    winner = load_scenario(tmp_path / "map" / "layouts" / "500tok-400gbit-2000ns-1lost.yaml")
    assert winner.variants[0].hardware.workers[0].nic.rate_bytes_per_s == 400 * GBIT


def test_a_map_without_any_point_is_refused() -> None:
    with pytest.raises(KvsimError, match=r"no point of the map fits 2 GPUs and the context of llama-3\.1-8b"):
        plan_network(planned(), prompt_tokens=[10**6], jobs=1)
