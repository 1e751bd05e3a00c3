"""How long a run must be, by hand."""

from kvsim.plan.run_length import RunLength, cluster_run_length

LENGTH = RunLength(limits=30, lives=6, requests_min=400, requests_max=5000)


def test_arrivals_last_thirty_limits_or_six_lives() -> None:
    assert LENGTH.requests(50.0, 2.0, 1.0, 0.9) == 50 * 60
    assert LENGTH.requests(50.0, 0.1, 10.0, 0.9) == 50 * 60


def test_a_slow_cluster_and_a_fast_one_stay_within_bounds() -> None:
    assert LENGTH.requests(0.0, 1.0, 1.0, 0.9) == 400
    assert LENGTH.requests(1e6, 1.0, 1.0, 0.9) == 5000


def test_a_high_target_needs_enough_requests_to_miss_it() -> None:
    assert LENGTH.requests(1.0, 1.0, 1.0, 0.99) == 3000
    assert LENGTH.requests(1.0, 1.0, 1.0, 0.998) == 15_000  # even beyond the most that time allows


def test_small_clusters_may_have_longer_runs() -> None:
    assert [cluster_run_length(gpus).requests_max for gpus in (2, 8, 16, 32, 64)] == [6000, 6000, 3000, 1500, 1500]
