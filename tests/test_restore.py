"""A scheduler that is restored from its record goes on as the one in whose place it comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import MODES

from kvsim.core.cluster import TransferMode
from kvsim.core.messages import Record
from kvsim.core.scheduler import Scheduler
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.worlds import random_world


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_a_scheduler_that_is_restored_at_any_moment_gives_the_same_commands(
    mode: TransferMode, seed: int, share: float
) -> None:
    played = random_world(mode, Choices(seed))
    played.play()
    cut = round(share * len(played.records))
    restored = Scheduler.restore(played.spec, played.records[:cut])
    for record in played.records[cut:]:
        assert tuple(restored.handle(record.now_ns, record.events)) == record.commands
    assert restored.requests_live == 0
    restored.check()


def test_a_record_that_this_scheduler_would_not_have_made_is_refused() -> None:
    played = random_world("pull", Choices(1))
    played.play()
    first = next(index for index, record in enumerate(played.records) if record.commands)
    changed = [*played.records]
    changed[first] = Record(changed[first].now_ns, changed[first].events, ())
    with pytest.raises(AssertionError, match="recorded"):
        Scheduler.restore(played.spec, changed)
