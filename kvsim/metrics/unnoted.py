"""Events and commands of which no metric speaks. Whatever is neither here nor handled by the collector is a mistake."""

from kvsim.core.messages import (
    CutDecode,
    DeadlineReached,
    LayersReady,
    LeasesRenewed,
    RequestCancelled,
    StopTransfer,
    TransferReleased,
)

UNNOTED = (
    *(LayersReady, TransferReleased, LeasesRenewed, RequestCancelled, DeadlineReached),
    *(CutDecode, StopTransfer),
)
