"""Sampling against hand-computed distributions, and that draws depend on nothing but seed, index and logits."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: sampling is NOT tested; pip install 'kvsim[engine]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.model.errors import ModelError
from backends.model.sampling import SamplingParameters, sample, token_generator

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


def shares(parameters: SamplingParameters, draws: int = 4000) -> list[float]:
    """How often each token is drawn, over consecutive output positions of one request."""
    rows = LOGITS.expand(draws, -1)
    generators = [token_generator(parameters.seed, index) for index in range(draws)]
    counts = Counter(sample(rows, [parameters] * draws, generators))
    return [counts[token] / draws for token in range(len(LOGITS))]


def test_greedy_takes_the_likeliest_token_and_the_lowest_of_equal_ones() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 3.0]])
    assert sample(logits, [SamplingParameters()] * 2, [None, None]) == [1, 0]


def test_temperature_one_draws_from_the_distribution() -> None:
    assert shares(SamplingParameters(temperature=1.0)) == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=0.03)


def test_temperature_one_half_squares_probabilities() -> None:
    """Squares 0.01, 0.16, 0.04, 0.09 sum to 0.3."""
    expected = [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]
    assert shares(SamplingParameters(temperature=0.5, seed=1)) == pytest.approx(expected, abs=0.03)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert shares(SamplingParameters(temperature=1.0, top_k=2)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, {1}), (0.4, {1}), (0.5, {1, 3}), (0.69, {1, 3}), (0.75, {1, 2, 3})])
def test_top_p_keeps_the_fewest_likeliest_that_reach_it(top_p: float, kept: set[int]) -> None:
    found = shares(SamplingParameters(temperature=1.0, top_p=top_p), draws=300)
    assert {token for token, share in enumerate(found) if share} == kept


def test_top_p_is_applied_after_top_k() -> None:
    """Of tokens 1 and 3 alone, token 1 has 4/7 = 0.571: enough for 0.57, not for 0.58."""
    alone = shares(SamplingParameters(temperature=1.0, top_k=2, top_p=0.57), draws=200)
    both = shares(SamplingParameters(temperature=1.0, top_k=2, top_p=0.58), draws=200)
    assert alone == [0, 1, 0, 0]
    assert both[3] > 0.2


def test_equal_logits_at_the_edge_of_top_k_are_kept_in_order_of_their_ids() -> None:
    logits = torch.zeros(200, 6)
    generators = [token_generator(0, index) for index in range(200)]
    drawn = sample(logits, [SamplingParameters(temperature=1.0, top_k=3)] * 200, generators)
    assert set(drawn) == {0, 1, 2}


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 100_000),
    others=st.integers(0, 5),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1.0),
)
def test_a_draw_depends_on_its_own_request_only(
    seed: int, index: int, others: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Alone, or in any row of a batch with others, greedy ones included: the same token."""
    logits = torch.from_numpy(np.random.default_rng(index).standard_normal((others + 1, 10)))
    parameters = SamplingParameters(temperature, top_k, top_p, seed)
    alone = sample(logits[-1:], [parameters], [token_generator(seed, index)])
    batch = [SamplingParameters(temperature if other % 2 else 0.0, seed=9) for other in range(others)]
    generators = [token_generator(9, other) for other in range(others)]
    together = sample(logits, [*batch, parameters], [*generators, token_generator(seed, index)])
    assert together[-1] == alone[0]


def test_requests_with_neighbouring_seeds_draw_differently() -> None:
    uniforms = {token_generator(seed, index).random() for seed in range(30) for index in range(30)}
    assert len(uniforms) == 900


def test_extreme_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e30, -1e30, 0.0]])
    assert sample(logits, [SamplingParameters(temperature=0.01)], [token_generator(0, 0)]) == [0]


def test_end_tokens_end_a_sequence_unless_they_are_to_be_ignored() -> None:
    assert SamplingParameters(stop_token_ids=(7, 9)).ends(9)
    assert not SamplingParameters(stop_token_ids=(7, 9)).ends(8)
    assert not SamplingParameters(stop_token_ids=(7, 9), ignore_eos=True).ends(9)


def test_everything_out_of_range_is_told_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        SamplingParameters(temperature=float("nan"), top_k=-1, top_p=0.0, seed=2**64)
    assert [problem.key for problem in caught.value.problems] == ["temperature", "top_k", "top_p", "seed"]
    assert "top_p: found 0.0; a number above 0 and at most 1 is required" in str(caught.value)


def test_a_sampled_row_without_a_generator_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="row 0 is sampled without a generator"):
        sample(LOGITS[None], [SamplingParameters(temperature=1.0)], [None])
