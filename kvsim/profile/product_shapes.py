"""The matrix products of a dense transformer layer on one GPU of a worker, by the names that engines give them.

As ``kvsim.sim.compute`` has them: where a dimension does not divide evenly, the widest shard counts. It must not know
tables.
"""

from kvsim.core.integers import div_ceil
from kvsim.sim.hardware import ModelShape


def product_shapes(model: ModelShape, ranks: int) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each product with weights. ``ranks`` divides the heads."""
    assert model.heads % ranks == 0, (model.heads, ranks)
    query, kv = model.heads // ranks * model.head_dim, div_ceil(model.kv_heads, ranks) * model.head_dim
    intermediate = div_ceil(model.intermediate, ranks)
    return {
        "qkv_proj": (query + 2 * kv, model.hidden),
        "o_proj": (model.hidden, query),
        "gate_up_proj": (2 * intermediate, model.hidden),
        "down_proj": (model.hidden, intermediate),
        "lm_head": (div_ceil(model.vocabulary, ranks), model.hidden),
    }
