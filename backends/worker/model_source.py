"""Where a model comes from, what it is, and how two processes know that they hold the same one.

Used on both sides: the driver plans with the configuration and checks the fingerprint, workers load the weights. This
module must not know torch.
"""

import hashlib
import json
from pathlib import Path

import msgspec

from backends.model.config import ModelConfig
from backends.model.config_file import read_config
from backends.model.presets import MODEL_PRESETS, model_preset
from backends.worker.errors import WorkerError
from kvsim.core.cluster import KvSpec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SAMPLE_BYTES = 64
_HEADER_BYTES_MAX = 100_000_000  # as the format itself allows


class ModelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``name`` is a random model of ``backends.model.presets``, whose weights come from ``seed``, or the path of a
    Hugging Face folder. ``dtype`` is that of weights, activations and KV cache."""

    name: str
    seed: int = 0
    dtype: str = "float32"

    @property
    def is_random(self) -> bool:
        """Whether there is no folder."""
        return self.name in MODEL_PRESETS

    def config(self) -> ModelConfig:
        """What the model is. Raises ModelError if there is no such model."""
        if self.dtype not in DTYPE_BYTES:
            raise WorkerError(f"dtype {self.dtype!r} is none of {', '.join(DTYPE_BYTES)}")
        if self.is_random or not Path(self.name).is_dir():
            return model_preset(self.name)
        return read_config(Path(self.name))

    def kv_spec(self, block_tokens: int) -> KvSpec:
        """The shape of the model's KV cache in the layout of ``PagedKvCache``."""
        config = self.config()
        return KvSpec(config.layers, config.kv_heads, config.head_dim, DTYPE_BYTES[self.dtype], block_tokens)

    def fingerprint(self) -> str:
        """The same for the same configuration and weights. Of a folder's weights, the files' names, sizes and headers
        count and a few bytes of every tensor, so that a model of many gigabytes costs no second."""
        digest = hashlib.sha256(repr(self.config()).encode())
        if self.is_random:
            digest.update(f"random weights of seed {self.seed}".encode())
        else:
            for path in sorted(Path(self.name).glob("*.safetensors")):
                _add_file(digest, path)
        return f"{self.name if self.is_random else Path(self.name).name}:{digest.hexdigest()}"


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    """A file of the safetensors format: 8 bytes of length, a JSON header with each tensor's offsets, the tensors."""
    digest.update(f"{path.name}:{path.stat().st_size}".encode())
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _HEADER_BYTES_MAX))
        digest.update(header)
        try:
            offsets = sorted(entry["data_offsets"] for entry in json.loads(header).values() if "data_offsets" in entry)
        except (ValueError, TypeError, AttributeError) as error:
            raise WorkerError(f"{path}: this is no safetensors file: {error}") from error
        for begin, end in offsets:
            file.seek(8 + length + begin)
            digest.update(file.read(min(_SAMPLE_BYTES, end - begin)))
            file.seek(max(8 + length + begin, 8 + length + end - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
