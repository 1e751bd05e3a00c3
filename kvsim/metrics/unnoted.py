"""Events and commands of which no metric speaks. Whatever is neither here nor handled by the collector is a mistake."""

from kvsim.core.messages import (
    CutDecode,
    DeadlineReached,
    DrainWorker,
    KeepRole,
    LayersReady,
    LeasesRenewed,
    RequestCancelled,
    RoleSwitched,
    StopTransfer,
    SwitchRole,
    TransferReleased,
    WorkerLeaving,
)

UNNOTED = (
    *(LayersReady, TransferReleased, LeasesRenewed, RequestCancelled, WorkerLeaving, DeadlineReached),
    *(CutDecode, StopTransfer, DrainWorker, KeepRole, SwitchRole, RoleSwitched),
)
