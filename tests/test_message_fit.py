"""Curves fitted to made-up measurements whose truth is known: lines, knees, disturbed points."""

import numpy as np
import pytest

from kvsim.profile.message_fit import MessagePoint, disturbed_points, fit_messages, signed_errors

SIZES = [2048 + 8192 * i for i in range(200)]


def affine(size_bytes: int) -> float:
    """20 us, and 10 GB/s."""
    return 20_000 + size_bytes / 10


def test_a_straight_line_is_found_to_a_permille() -> None:
    points = [MessagePoint(size, affine(size)) for size in SIZES]
    fitted = fit_messages(points)
    assert np.abs(signed_errors(fitted.times, points)).max() < 1e-3
    assert fitted.latency_ns == pytest.approx(20_205, abs=2)  # the smallest message has 2,048 bytes
    assert fitted.bytes_per_s == pytest.approx(10e9, rel=0.01)
    assert fitted.operation_ns < 10
    assert fitted.disturbed == ()


def test_a_step_between_protocols_is_followed() -> None:
    """8 us up to 64 KiB, from there on 8 us more."""
    points = [MessagePoint(size, affine(size) - 12_000 + (8000 if size > 65536 else 0)) for size in SIZES]
    fitted = fit_messages(points)
    errors = np.abs(signed_errors(fitted.times, points))
    assert errors.mean() < 0.02
    assert fitted.operation_ns == pytest.approx(8000, rel=0.1)


def test_messages_that_larger_ones_overtake_are_left_out_and_told() -> None:
    points = [MessagePoint(size, affine(size)) for size in SIZES]
    slow = {5, 6, 40}
    spoiled = [point._replace(ns=3 * point.ns) if i in slow else point for i, point in enumerate(points)]
    fitted = fit_messages(spoiled)
    assert fitted.disturbed == tuple(spoiled[i] for i in sorted(slow))
    assert np.abs(signed_errors(fitted.times, points)).max() < 1e-3


def test_a_small_disturbance_is_outvoted() -> None:
    points = [MessagePoint(size, affine(size) * (1.2 if i % 7 == 3 else 1.0)) for i, size in enumerate(SIZES)]
    fitted = fit_messages(points)
    assert fitted.disturbed == ()
    clean = [MessagePoint(size, affine(size)) for size in SIZES]
    assert np.abs(signed_errors(fitted.times, clean)).mean() < 0.02


def test_one_point_a_power_of_two_is_enough() -> None:
    """As nccl-tests measures; lines then span several sizes."""
    points = [MessagePoint(2**power, affine(2**power)) for power in range(10, 27)]
    fitted = fit_messages(points)
    assert np.abs(signed_errors(fitted.times, points)).max() < 0.02


def test_the_curve_never_falls_even_if_measurements_do() -> None:
    noise = np.random.default_rng(3).normal(1.0, 0.05, len(SIZES))
    points = [MessagePoint(size, 20_000 * factor) for size, factor in zip(SIZES, noise, strict=True)]
    times = fit_messages(points).times
    assert list(times.ns) == sorted(times.ns)
    assert 18_000 < times.ns[0] <= times.ns[-1] < 22_000


def test_two_points_and_one() -> None:
    two = [MessagePoint(1024, 100.0), MessagePoint(4096, 400.0)]
    assert fit_messages(two).times.of(4096) == pytest.approx(400, abs=1)
    assert fit_messages(two[:1]).times.of(9999) == pytest.approx(100, abs=1)


def test_points_with_few_larger_ones_are_never_called_disturbed() -> None:
    points = [MessagePoint(1024, 100.0), MessagePoint(2048, 10.0), MessagePoint(3072, 10.0)]
    assert disturbed_points(points) == ()
