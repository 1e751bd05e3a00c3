"""What a worker process is told at its start, beyond how to reach its driver: bytes in the launch ticket.

This module must not know torch: the driver writes these settings.
"""

import msgspec

from backends.worker.errors import WorkerError
from backends.worker.model_source import ModelSource
from kvsim.core.cluster import ClusterSpec, WorkerSpec
from kvsim.core.messages import WorkerId


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``transport`` is one of ``backends.worker.transports``, listening at ``host`` where it needs an address.
    ``device`` is ``cpu``, ``cuda:0`` or another GPU, or ``cuda``: workers take the GPUs that they see in turn.
    ``threads`` are torch's for computing on a CPU. ``attention`` is a kernel of ``backends.model.attention_choice``, or
    ``auto``: the best that passes its trial."""

    cluster: ClusterSpec
    model: ModelSource
    transport: str
    host: str = "127.0.0.1"
    device: str = "cpu"
    threads: int = 1
    attention: str = "auto"

    def spec(self, worker: WorkerId) -> WorkerSpec:
        """What the scheduler plans with for this worker."""
        return self.cluster.workers[worker]


def encode_settings(settings: WorkerSettings) -> bytes:
    """For ``LaunchTicket.settings``."""
    return msgspec.msgpack.encode(settings)


def decode_settings(content: bytes) -> WorkerSettings:
    """The inverse. Raises WorkerError if it is none."""
    try:
        return msgspec.msgpack.decode(content, type=WorkerSettings)
    except msgspec.DecodeError as error:
        raise WorkerError(f"the settings in the launch ticket are of another version: {error}") from error
