"""What the KV cache of a pool's GPUs follows from, taken out of a checked document. It must not do arithmetic."""

from kvsim.presets.fields import GpuFields
from kvsim.scenario.memory import Budget
from kvsim.scenario.schema import Cache, Pool


def memory_budget(pool: Pool, cache: Cache, gpu: GpuFields, step_tokens: int) -> Budget:
    """What the KV cache of a pool's GPUs follows from, with steps of up to ``step_tokens`` tokens."""
    return Budget(
        gpu_memory_bytes=gpu.memory,
        memory_utilization=cache.memory_utilization,
        block_tokens=pool.block_tokens_of(cache),
        step_tokens=step_tokens,
        step_requests=pool.batch_requests_max,
        logit_bytes=cache.logit_memory,
        runtime_bytes=cache.runtime_memory,
        graph_bytes=cache.graph_memory or 0,
    )
