"""The fixed order in which events of one instant are taken in, whatever order they were reported in.

It must not know what an event leads to.
"""

from typing import Final

from kvsim.core.messages import (
    DeadlineReached,
    DecodeAdvanced,
    Event,
    LayersReady,
    PrefillDone,
    RequestArrived,
    TransferDone,
    TransferReleased,
)

EVENT_ORDER: Final[dict[type, int]] = {
    DecodeAdvanced: 0,  # the next decode step begins before anything else of the same instant is known
    TransferReleased: 1,
    TransferDone: 2,
    LayersReady: 3,
    PrefillDone: 4,
    RequestArrived: 5,
    DeadlineReached: 6,
}


def event_key(event: Event) -> tuple[int, int, int]:
    """The fixed order of events within one instant."""
    if isinstance(event, DecodeAdvanced | PrefillDone | LayersReady):
        return EVENT_ORDER[type(event)], event.worker, event.run
    if isinstance(event, TransferDone | TransferReleased):
        return EVENT_ORDER[type(event)], event.transfer, 0
    if isinstance(event, RequestArrived):
        return EVENT_ORDER[RequestArrived], event.request.id, 0
    return EVENT_ORDER[type(event)], 0, 0
