"""What the workers of a test world compute with and move bytes by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from hash_model import VOCABULARY, HashModel
from loopback import Hub, Loopback

from backends.transport.port import Transport
from backends.worker.steps import StepModel
from kvsim.core.cluster import KvSpec, WorkerSpec
from kvsim.core.kv_tensor import KvTensor, contiguous_kv_tensor

Action = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker is made of."""

    model: StepModel
    transport: Transport
    tensor: KvTensor


class Backing(Protocol):
    """Models and transports of a world. ``actions`` are what may happen beside driver and workers."""

    vocabulary: int

    def parts(self, spec: WorkerSpec, kv: KvSpec) -> Parts: ...

    def actions(self, random: np.random.Generator) -> list[Action]: ...


class HashBacking:
    """Integers moved by a loopback transport."""

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        self.hub = Hub()

    def parts(self, spec: WorkerSpec, kv: KvSpec) -> Parts:
        cache = np.full((kv.layers, 2, spec.kv_blocks, kv.block_tokens, 1, 1), -1, dtype=np.int64)
        transport = Loopback(self.hub, spec.name)
        region = transport.register(cache.data.cast("B"), contiguous_kv_tensor(kv, 1, spec.kv_blocks))
        return Parts(HashModel(cache), transport, region.tensor)

    def actions(self, random: np.random.Generator) -> list[Action]:
        jobs = self.hub.ready()
        moves = [partial(self.hub.move, jobs[int(random.integers(len(jobs)))])] if jobs else []
        return [*moves, *[partial(self.hub.notice, end, dead) for end, dead in self.hub.unnoticed[:1]]]
