"""Events and commands of which no metric speaks. Whatever is neither here nor handled by the collector is a mistake."""

from kvsim.core.messages import (
    CutDecode,
    DeadlineReached,
    DismissWorker,
    DrainWorker,
    KeepRole,
    LayersReady,
    LeasesRenewed,
    RequestCancelled,
    RoleSwitched,
    StopTransfer,
    SwitchRole,
    TransferReleased,
    WorkerJoined,
    WorkerLeaving,
)

UNNOTED = (
    *(LayersReady, TransferReleased, LeasesRenewed, RequestCancelled, WorkerJoined, WorkerLeaving, DeadlineReached),
    *(CutDecode, StopTransfer, DismissWorker, DrainWorker, KeepRole, SwitchRole, RoleSwitched),
)
