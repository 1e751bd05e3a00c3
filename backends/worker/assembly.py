"""Makes a worker of its settings: model, KV cache in memory that its transport can move, engine, transfers.

This module must not know sockets of the control plane, threads or processes.
"""

import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from backends.control.compatibility import Compatibility
from backends.control.messages import Capability, Ready, WorkerMessage
from backends.control.ranges import PeerLimits
from backends.model.attention import AttentionKernel
from backends.model.attention_choice import choose_attention
from backends.model.config import ModelConfig
from backends.model.kv_cache import PagedKvCache
from backends.model.transformer import Transformer
from backends.model.weights import Weights, load_weights, random_weights
from backends.transport.port import Capabilities, Transport
from backends.worker.engine import Engine
from backends.worker.errors import WorkerError
from backends.worker.language_model import LanguageModel
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings
from backends.worker.stamps import Stamps
from backends.worker.tables import BlockTables
from backends.worker.transfers import Transfers
from backends.worker.transports import announces_layers, lacking_capability, open_transport, peers_may
from backends.worker.warm_up import warm_up
from backends.worker.worker import Worker, peer_names
from kvsim.core.cluster import WorkerSpec
from kvsim.core.kv_tensor import KvTensor, contiguous_kv_tensor
from kvsim.core.messages import WorkerId

_log = logging.getLogger("kvsim.worker")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Assembled:
    """A worker with what its process must hold on to. ``transport`` wakes the communication thread."""

    worker: Worker
    transport: Transport
    compatibility: Compatibility
    limits: PeerLimits


def assemble(
    worker: WorkerId, settings: WorkerSettings, say: Callable[[WorkerMessage], None], beat: Callable[[], None]
) -> Assembled:
    """Load the model and open the transport. ``say`` takes messages for the driver, from any thread; ``beat`` is called
    between layers. Raises ModelError or WorkerError if the settings cannot be met."""
    spec, config = settings.spec(worker), settings.model.config()
    check_settings(spec, settings)
    torch.set_num_threads(settings.threads)
    device = device_of(worker, settings.device)
    dtype = DTYPES[settings.model.dtype]
    weights = _weights(settings.model, config, dtype, device)
    transport = open_transport(settings.transport, spec.name, settings.host, _pci_address(device))
    try:
        lacking = lacking_capability(settings.cluster.policy.transfer_mode, transport.capabilities)
        if lacking:
            raise WorkerError(f"transport {settings.transport} cannot {lacking}; choose another transport or mode")
        cache, tensor = _cache(transport, spec, settings, dtype, device)
        announces = announces_layers(settings.cluster.policy.transfer_mode)
        kernel = _attention(config, device, dtype, settings)
        model = LanguageModel(Transformer(config, weights, kernel), cache, wait_each_layer=announces)
        warm_up(model, spec.kv_blocks, settings.cluster.kv.block_tokens)
        stamps = Stamps(transport, spec.kv_blocks)
        tables = BlockTables(spec.kv_blocks, settings.cluster.kv.block_tokens, stamps.mark)
        engine = Engine(worker, model, tables, say, time.monotonic_ns, beat)
        transfers = Transfers(worker, transport, tensor, stamps, say)
        names = peer_names([other.name for other in settings.cluster.workers], spec.name)
        capabilities = _capabilities(transport.capabilities)

        def ready() -> Ready:
            return Ready(
                settings.transport,
                transfers.describe(names),
                capabilities,
                spec.kv_blocks,
                os.getpid(),
                platform.node(),
            )

        return Assembled(
            Worker(engine, transfers, ready, say),
            transport,
            Compatibility(settings.model.fingerprint(), settings.model.dtype, settings.cluster.kv),
            PeerLimits(config.layers, config.vocabulary, spec.kv_blocks),
        )
    except BaseException:
        transport.close()
        raise


def check_settings(spec: WorkerSpec, settings: WorkerSettings) -> None:
    """Raises WorkerError unless model and cluster agree and this version can be such a worker."""
    kv = settings.cluster.kv
    expected = settings.model.kv_spec(kv.block_tokens)
    if kv != expected:
        raise WorkerError(f"worker {spec.name}: the model's KV cache is {expected}, the cluster is planned with {kv}")
    if settings.cluster.block_tokens(spec.id) != kv.block_tokens:
        raise WorkerError(
            f"worker {spec.name}: blocks of {spec.block_tokens} tokens; real workers all have those of the cluster, "
            f"{kv.block_tokens}"
        )
    if spec.tensor_parallel != 1:
        raise WorkerError(
            f"worker {spec.name}: tensor_parallel {spec.tensor_parallel}; real workers have one rank each"
        )


def device_of(worker: WorkerId, name: str) -> torch.device:
    """Where this worker computes, made the current device of this thread: kernels are launched there. ``cuda`` without
    a number: workers take the GPUs that their processes see in turn. Raises WorkerError if there is no such device."""
    if name == "cpu":
        return torch.device(name)
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise WorkerError(f"device {name!r}: expected cpu, cuda or cuda:NUMBER")
    seen = torch.cuda.device_count()
    if not seen:
        raise WorkerError(f"device {name}: torch {torch.__version__} finds no GPU here")
    index = int(number) if number else worker % seen
    if index >= seen:
        raise WorkerError(f"device {name}: this process sees {seen} GPUs, the last of them is cuda:{seen - 1}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _attention(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, settings: WorkerSettings
) -> AttentionKernel:
    """The kernel that the settings ask for, or the best that passes its trial here; what was not taken goes into the
    worker's log. Raises ModelError."""
    choice = choose_attention(config, device, dtype, settings.cluster.kv.block_tokens, settings.attention)
    for line in choice.rejected:
        _log.warning("attention by %s, for not by %s", choice.kernel.name, line)
    return choice.kernel


def _weights(source: ModelSource, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Weights:
    if source.is_random:
        return random_weights(config, source.seed, dtype, device)
    return load_weights(Path(source.name), config, dtype, device)


def _cache(
    transport: Transport, spec: WorkerSpec, settings: WorkerSettings, dtype: torch.dtype, device: torch.device
) -> tuple[PagedKvCache, KvTensor]:
    """The KV cache, in memory that peers can reach if there are any."""
    kv = settings.cluster.kv
    tensor = contiguous_kv_tensor(kv, kv.kv_heads, spec.kv_blocks)
    if device.type == "cpu":
        memory = transport.allocate(prod(tensor.shape) * kv.dtype_bytes)
        cache = PagedKvCache(torch.frombuffer(memory, dtype=dtype).view(tensor.shape))
        return cache, transport.register(memory, tensor, peers_may(settings.cluster.policy.transfer_mode)).tensor
    cache = PagedKvCache(torch.zeros(tensor.shape, dtype=dtype, device=device))
    if settings.cluster.policy.transfer_mode == "colocated":
        return cache, tensor
    if not transport.capabilities.device_memory:
        name = transport.capabilities.name
        raise WorkerError(f"worker {spec.name}: transport {name} does not reach {device} memory; cuda_ipc and verbs do")
    return cache, transport.register(cache.tensor, tensor, peers_may(settings.cluster.policy.transfer_mode)).tensor


def _pci_address(device: torch.device) -> str:
    """Where a GPU sits, as Linux writes it ("0000:3b:00.0"); empty for a CPU."""
    if device.type != "cuda":
        return ""
    from backends.transport.verbs.gpu import pci_address  # noqa: PLC0415

    assert device.index is not None, "a GPU without a number"
    return pci_address(device.index)


def _capabilities(capabilities: Capabilities) -> tuple[Capability, ...]:
    named: list[tuple[Capability, bool]] = [
        ("read", capabilities.read),
        ("write", capabilities.write),
        ("two_sided", capabilities.two_sided),
        ("owner_runs_code", capabilities.owner_runs_code),
    ]
    return tuple([name for name, can in named if can])
