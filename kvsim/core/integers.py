"""Arithmetic of integers that Python has no operator for."""


def div_ceil(dividend: int, divisor: int) -> int:
    """Integer division that rounds up. ``divisor`` > 0."""
    assert divisor > 0, f"div_ceil by {divisor}"
    return -(-dividend // divisor)
