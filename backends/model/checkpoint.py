"""Tensors of a Hugging Face folder: one safetensors file or several with an index, checked before any is used.

Only safetensors are read: other formats are pickles, and loading those runs code.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backends.model.config import ModelConfig
from backends.model.errors import ModelError, problem
from backends.model.fields import read_object
from backends.model.tensors import may_be_ignored, tensor_shapes
from kvsim.errors import Problem

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_TYPES = ("F32", "BF16", "F16", "F64")
NAMED_MAX = 8  # of the tensors of one kind of problem; the rest is counted


class _View(Protocol):
    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


class _File(Protocol):
    """What this module uses of an open safetensors file, whose stub has no types."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> _View: ...
    def get_tensor(self, name: str) -> Tensor: ...


class Checkpoint:
    """Open safetensors files of one folder. A context manager; tensors may be views of the files until it is left.

    Raises ``ModelError`` on construction if the tensors are not exactly those that the configuration implies: a
    missing one could not be computed with, and an unexpected one (a bias, say) would silently be left out.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._files = ExitStack()
        self._place: dict[str, _File] = {}
        problems: list[Problem] = []
        for file, names in _files_of(folder, problems).items():
            self._open(folder / file, names, problems)
        if not problems:
            problems = self._compare(folder, config)
        if problems:
            self._files.close()
            raise ModelError(problems)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name on the CPU, in its stored type."""
        return self._place[name].get_tensor(name)

    def _open(self, path: Path, names: list[str] | None, problems: list[Problem]) -> None:
        """Open one file; ``names`` are those that the index promises in it (None: whatever it holds)."""
        try:
            opened = safe_open(path, framework="pt", device="cpu")
        except FileNotFoundError:
            problems.append(problem(str(path), "", f"no such file, though {INDEX_FILE} names it; download it again"))
            return
        except (SafetensorError, OSError) as error:
            problems.append(problem(str(path), "", f"is no complete safetensors file ({error}); download it again"))
            return
        self._files.enter_context(opened)
        file = cast("_File", opened)
        held = set(file.keys())
        self._place |= dict.fromkeys(sorted(held) if names is None else [name for name in names if name in held], file)

    def _compare(self, folder: Path, config: ModelConfig) -> list[Problem]:
        """Everything in which the tensors differ from what the configuration implies."""
        expected = tensor_shapes(config)
        missing = [name for name in expected if name not in self._place]
        extra = [name for name in sorted(self._place) if name not in expected and not may_be_ignored(name, config)]
        wrong_shape, wrong_type = [], []
        for name in (name for name in expected if name in self._place):
            view = self._place[name].get_slice(name)
            if (found := tuple(view.get_shape())) != expected[name]:
                wrong_shape.append(f"{name} is {list(found)} instead of {list(expected[name])}")
            if view.get_dtype() not in FLOAT_TYPES:
                wrong_type.append(f"{name} is {view.get_dtype()}")
        kinds = [
            ("missing tensors", missing, "the folder is incomplete or of another model than its config.json"),
            ("unexpected tensors", extra, "config.json describes a model without them: correct it or the folder"),
            ("tensors of another shape", wrong_shape, "config.json and the weights disagree: correct config.json"),
            ("tensors of another type", wrong_type, "quantized weights are not supported: use a floating-point copy"),
        ]
        return [
            problem(str(folder), f"{len(names)} {kind}", f"{_some(names)}; {remedy}")
            for kind, names, remedy in kinds
            if names
        ]


def _files_of(folder: Path, problems: list[Problem]) -> dict[str, list[str] | None]:
    """The files to open, each with the tensors that the index promises in it (None: there is no index)."""
    if (folder / SINGLE_FILE).exists():
        return {SINGLE_FILE: None}
    if not (folder / INDEX_FILE).exists():
        others = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
        hint = f"found {_some(others)}: convert it to safetensors" if others else "download the weights"
        problems.append(problem(str(folder), "", f"holds neither {SINGLE_FILE} nor {INDEX_FILE}; {hint}"))
        return {}
    values = read_object(folder / INDEX_FILE, problems)
    place = str(folder / INDEX_FILE)
    weight_map = values.get("weight_map") if values is not None else {}
    if not isinstance(weight_map, dict):
        problems.append(problem(place, "weight_map", "an object from tensor names to file names is required"))
        return {}
    files: dict[str, list[str] | None] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            problems.append(problem(place, name, f"found {file!r}; the plain name of a safetensors file is required"))
            continue
        members = files.setdefault(file, [])
        assert members is not None, f"{file} without a list of tensors"
        members.append(name)
    return files


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")


def index_text(weight_map: dict[str, str]) -> str:
    """The text of an index file for these tensors."""
    return json.dumps({"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"
