"""The fixed order in which events of one instant are taken in, whatever order they were reported in.

It must not know what an event leads to.
"""

from typing import Final

from kvsim.core.messages import (
    DeadlineReached,
    DecodeAdvanced,
    Event,
    LayersReady,
    LeasesRenewed,
    PrefillDone,
    RequestArrived,
    RequestCancelled,
    RoleSwitched,
    TransferDone,
    TransferFailed,
    TransferReleased,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)

EVENT_ORDER: Final[dict[type, int]] = {
    DecodeAdvanced: 0,  # the next decode step begins before anything else of the same instant is known
    TransferReleased: 1,
    TransferDone: 2,
    TransferFailed: 3,
    LayersReady: 4,
    PrefillDone: 5,
    LeasesRenewed: 6,
    WorkerLost: 7,  # behind what it reported before: that counts, and tokens may have gone to clients already
    WorkerLeaving: 8,
    WorkerJoined: 9,
    RoleSwitched: 10,
    RequestArrived: 11,
    RequestCancelled: 12,
    DeadlineReached: 13,
}


def event_key(event: Event) -> tuple[int, int, int]:
    """The fixed order of events within one instant."""
    if isinstance(event, DecodeAdvanced | PrefillDone | LayersReady):
        return EVENT_ORDER[type(event)], event.worker, event.run
    if isinstance(event, TransferDone | TransferReleased | TransferFailed):
        return EVENT_ORDER[type(event)], event.transfer, 0
    if isinstance(event, RequestArrived):
        return EVENT_ORDER[RequestArrived], event.request.id, 0
    if isinstance(event, RequestCancelled):
        return EVENT_ORDER[RequestCancelled], event.request, 0
    if isinstance(event, WorkerLost | WorkerJoined | WorkerLeaving | LeasesRenewed):
        return EVENT_ORDER[type(event)], event.worker, 0
    if isinstance(event, RoleSwitched):
        return EVENT_ORDER[RoleSwitched], event.worker, event.switch
    return EVENT_ORDER[type(event)], 0, 0
