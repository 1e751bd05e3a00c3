"""Random tensors by seed, and a Hugging Face folder with them for other tools.

Matrices and biases are normal with deviation 0.2 instead of the customary 0.02, with which logits are all but uniform
and greedy decoding falls into loops of one token; norms are normal around 1, so that a forgotten one shows.
Each tensor has its own stream (seed, index in ``tensor_shapes``): it does not depend on the order of asking.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from backends.model.checkpoint import INDEX_FILE, SINGLE_FILE, index_text
from backends.model.config import ModelConfig
from backends.model.config_file import write_config
from backends.model.tensors import tensor_shapes
from backends.model.tokenizer import byte_level_tokenizer

DEVIATION = 0.2
NORM_DEVIATION = 0.1


def random_tensor(config: ModelConfig, seed: int, name: str) -> Tensor:
    """The fp32 tensor of this name on the CPU."""
    shapes = tensor_shapes(config)
    index = list(shapes).index(name)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
    values = generator.standard_normal(shapes[name], dtype=np.float32)
    if name.endswith("norm.weight"):
        return torch.from_numpy(1.0 + NORM_DEVIATION * values)
    return torch.from_numpy(values * np.float32(DEVIATION))


def write_random_model(folder: Path, config: ModelConfig, seed: int, shards: int = 1) -> None:
    """Write the model of ``random_weights(config, seed)`` as a Hugging Face folder: configuration, weights in
    ``shards`` files, byte-level tokenizer. The folder is created; files of these names in it are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    byte_level_tokenizer().write(folder)
    names = list(tensor_shapes(config))
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.dtype]
    files = [SINGLE_FILE] if shards == 1 else [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files):
        members = names[number::shards]
        save_file(
            {name: random_tensor(config, seed, name).to(dtype) for name in members}, folder / file, {"format": "pt"}
        )
        weight_map |= dict.fromkeys(members, file)
    if shards > 1:
        (folder / INDEX_FILE).write_text(index_text(weight_map))
