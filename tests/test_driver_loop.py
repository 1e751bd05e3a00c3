"""The driver's thread by itself: what it makes of its own absence. Its parts are stand-ins with a clock of the test."""

from unittest.mock import Mock

import pytest

from backends.driver.loop import ABSENT_MIN_NS, SLEEP_MAX_S, Loop


class Clock:
    """An instant, and how long the next wait takes."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.wait_ns = 0

    def read(self) -> int:
        return self.now_ns

    def receive(self, _timeout_s: float) -> list[object]:
        self.now_ns += self.wait_ns
        return []


def loop_at(clock: Clock) -> tuple[Loop, Mock, Mock]:
    """A loop with nothing to do, its fleet and its driver."""
    fleet, driver, channel, launcher = Mock(), Mock(), Mock(), Mock()
    fleet.deadline_ns.return_value = driver.deadline_ns = None
    channel.receive, launcher.exits.return_value = clock.receive, []
    return Loop(driver, fleet, channel, launcher, clock.read, Mock()), fleet, driver


@pytest.mark.parametrize(
    ("late_ns", "excused_ns"),
    [(0, None), (ABSENT_MIN_NS - 1, None), (ABSENT_MIN_NS, ABSENT_MIN_NS), (1_900_000_000, 1_900_000_000)],
)
def test_a_driver_that_comes_back_late_excuses_workers_for_as_long(late_ns: int, excused_ns: int | None) -> None:
    clock = Clock()
    loop, fleet, _ = loop_at(clock)
    clock.wait_ns = int(SLEEP_MAX_S * 1e9) + late_ns
    loop.turn()
    if excused_ns is None:
        fleet.excuse.assert_not_called()
    else:
        fleet.excuse.assert_called_once_with(excused_ns, clock.now_ns)
    fleet.give_up_late.assert_called_once_with(clock.now_ns)


def test_a_turn_that_takes_long_is_an_absence_too() -> None:
    clock = Clock()
    loop, fleet, driver = loop_at(clock)

    def turn(_now_ns: int) -> bool:
        clock.now_ns += 2_000_000_000
        return True

    driver.turn = turn
    loop.turn()
    clock.wait_ns = int(SLEEP_MAX_S * 1e9)
    loop.turn()
    fleet.excuse.assert_called_once_with(2_000_000_000, 3_000_000_000)
