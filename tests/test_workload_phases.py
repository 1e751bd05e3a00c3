"""Phases: the right requests in the right stretch of time, by seed, each phase for itself."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from msgspec.structs import replace
from plan_worlds import planned
from test_scenario_errors import GOOD, Problems

from kvsim.plan.load import load_of
from kvsim.scenario import load_scenario
from kvsim.scenario.document import dump_resolved
from kvsim.workload import (
    FixedGapArrivals,
    FixedLength,
    GammaArrivals,
    LengthPairs,
    LognormalLength,
    PhasedWorkload,
    PhaseSpec,
    PoissonArrivals,
    UniformLength,
    generate,
)

S = 1_000_000_000
LONG = LengthPairs(UniformLength(2000, 3000), FixedLength(10))
SHORT = LengthPairs(LognormalLength(100.0, 0.5, 1, 1000), UniformLength(100, 300))
DAY = PhasedWorkload(
    (PhaseSpec(60 * S, PoissonArrivals(2.0), LONG), PhaseSpec(30 * S, GammaArrivals(10.0, 3.0), SHORT)), None
)
WRITTEN = """
    - duration: 1 min
      arrivals: {kind: poisson, rate: 2 req/s}
      lengths:
        prompt_tokens: {kind: uniform, tokens_min: 2000, tokens_max: 3000}
        output_tokens: {kind: fixed, tokens: 10}
    - duration: 30 s
      arrivals: {kind: gamma, rate: 10 req/s, cv: 3.0}
      lengths:
        prompt_tokens: {kind: lognormal, mean_tokens: 100, cv: 0.5, tokens_max: 1000}
        output_tokens: {kind: uniform, tokens_min: 100, tokens_max: 300}
"""
HEAD = GOOD[: GOOD.index("  requests:")]


def test_each_phase_has_its_own_lengths_and_rate() -> None:
    made = generate(DAY, 1)
    first = made.arrival_ns < 60 * S
    assert first.sum() == pytest.approx(120, abs=4 * 120**0.5)
    assert (~first).sum() == pytest.approx(300, abs=4 * 3 * 300**0.5)  # gaps of a cv of 3
    assert made.arrival_ns.max() < 90 * S
    assert made.prompt_tokens[first].min() >= 2000
    assert set(made.output_tokens[first]) == {10}
    assert made.prompt_tokens[~first].max() <= 1000
    assert made.output_tokens[~first].min() >= 100


def test_regular_arrivals_start_with_each_phase() -> None:
    phases = (PhaseSpec(3 * S, FixedGapArrivals(1.0), LONG), PhaseSpec(2 * S, FixedGapArrivals(2.0), LONG))
    made = generate(PhasedWorkload(phases, None), 1)
    assert made.arrival_ns.tolist() == [0, S, 2 * S, 3 * S, 3 * S + S // 2, 4 * S, 4 * S + S // 2]


def test_a_seed_gives_the_same_day_and_another_one_another() -> None:
    assert all(
        np.array_equal(getattr(generate(DAY, 3), column), getattr(generate(DAY, 3), column))
        for column in ("arrival_ns", "prompt_tokens", "output_tokens")
    )
    assert not np.array_equal(generate(DAY, 3).prompt_tokens[:50], generate(DAY, 4).prompt_tokens[:50])


def test_what_is_changed_in_one_phase_moves_nothing_in_another() -> None:
    first, second = DAY.phases
    made, busier = generate(DAY, 1), generate(replace(DAY, phases=(first, replace(second, lengths=LONG))), 1)
    assert np.array_equal(made.arrival_ns, busier.arrival_ns)
    early = made.arrival_ns < 60 * S
    assert np.array_equal(made.prompt_tokens[early], busier.prompt_tokens[early])
    faster = generate(replace(DAY, phases=(replace(first, arrivals=PoissonArrivals(9.0)), second)), 1)
    late, later = made.arrival_ns >= 60 * S, faster.arrival_ns >= 60 * S
    assert np.array_equal(made.arrival_ns[late], faster.arrival_ns[later])
    assert np.array_equal(made.prompt_tokens[late], faster.prompt_tokens[later])


def test_two_phases_of_one_kind_are_drawn_independently() -> None:
    phase = PhaseSpec(60 * S, PoissonArrivals(5.0), LONG)
    made = generate(PhasedWorkload((phase, phase), None), 1)
    early = made.arrival_ns < 60 * S
    assert made.arrival_ns[early][:20].tolist() != (made.arrival_ns[~early][:20] - 60 * S).tolist()
    assert made.prompt_tokens[early][:20].tolist() != made.prompt_tokens[~early][:20].tolist()


def test_a_burst_longer_than_was_drawn_at_first_is_drawn_again() -> None:
    """Gaps of a cv of 10 give a phase far more arrivals than its mean now and then."""
    bursty = PhaseSpec(S, GammaArrivals(20.0, 10.0), LONG)
    counts = [len(generate(PhasedWorkload((bursty,), None), seed)) for seed in range(40)]
    assert max(counts) > 20 * 1.2 + 16


def test_notes_name_their_phase() -> None:
    clipped = LengthPairs(LognormalLength(1000.0, 1.0, 1, 1000), FixedLength(10))
    phases = (DAY.phases[0], PhaseSpec(60 * S, PoissonArrivals(2.0), clipped))
    (note,) = generate(PhasedWorkload(phases, None), 1).notes
    assert note.startswith("phase 2: prompt_tokens: ")


# --- in a scenario ---


def test_a_scenario_writes_phases(tmp_path: Path) -> None:
    file = tmp_path / "day.yaml"
    file.write_text(HEAD + "  phases:" + WRITTEN)
    scenario = load_scenario(file)
    assert scenario.variants[0].workload == DAY
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(scenario))
    assert load_scenario(resolved).variants == scenario.variants


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  phases: []\n", "s.yaml:6:11: workload.phases: found a list, expected at least one entry"),
        (
            "  requests: 3\n  phases:" + WRITTEN,
            "s.yaml:5:1: workload: found phases and requests, expected either a trace or phases or drawn requests "
            "(null removes a key)",
        ),
        (
            "  phases:" + WRITTEN.replace("1 min", "0 s"),
            "s.yaml:7:17: workload.phases.0.duration: found '0 s', expected more than 0",
        ),
        (
            "  phases:" + WRITTEN.replace("tokens_max: 3000", "tokens_max: 200000"),
            "s.yaml:7:5: workload.phases: found requests of up to 200000 + 10 tokens (prompt + output), expected at "
            "most 131072: the context limit of llama-3.1-8b",
        ),
    ],
)
def test_wrong_phases_are_named(tmp_path: Path, text: str, line: str) -> None:
    assert line in Problems(tmp_path)(HEAD + text)


def test_a_plan_sees_a_day_go_by_faster_with_the_same_requests() -> None:
    phases = yaml.safe_load(WRITTEN)
    load = load_of(planned(workload={"phases": phases}).variants[0].workload, 1, 10)
    natural = load.natural
    fast = load.at(2 * load.natural_rate_per_s)
    assert load.requests == len(natural)  # a whole day, whatever number was asked for
    assert np.array_equal(fast.prompt_tokens, natural.prompt_tokens)
    assert np.abs(natural.arrival_ns - 2 * fast.arrival_ns).max() < 100_000  # the factor has six digits
    written = load.document_at({"phases": phases}, 2 * load.natural_rate_per_s)
    again = load_of(planned(workload=written).variants[0].workload, 1, 10).natural
    assert np.abs(again.arrival_ns - fast.arrival_ns).max() < 100_000
