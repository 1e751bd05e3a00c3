"""Reading safetensors folders: every way in which weights and configuration can disagree is told, all at once."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: weights are NOT tested; pip install 'kvsim[engine]'")

import torch
from safetensors.torch import load_file, save_file

from backends.model.checkpoint import INDEX_FILE, SINGLE_FILE
from backends.model.config import ModelConfig
from backends.model.errors import ModelError
from backends.model.random_tensors import random_tensor, write_random_model
from backends.model.tensors import tensor_shapes
from backends.model.weights import load_weights, random_weights

CONFIG = ModelConfig(
    architecture="qwen3",
    layers=2,
    hidden=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate=48,
    vocabulary=64,
    context_tokens_max=64,
    qk_norm=True,
)


def problems_of(folder: Path, config: ModelConfig = CONFIG) -> list[str]:
    with pytest.raises(ModelError) as caught:
        load_weights(folder, config)
    return [f"{problem.key}: {problem.message}".removeprefix(": ") for problem in caught.value.problems]


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a single-file model (dots written as __); None removes one."""
    tensors = load_file(folder / SINGLE_FILE)
    for name, tensor in changes.items():
        name = name.replace("__", ".")  # noqa: PLW2901 - keyword arguments cannot hold dots
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / SINGLE_FILE)


@pytest.mark.parametrize("shards", [1, 3])
def test_fused_weights_hold_the_tensors_in_order(shards: int, tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1, shards=shards)
    layer = load_weights(tmp_path, CONFIG).layers[1]
    q, k, v = (random_tensor(CONFIG, 1, f"model.layers.1.self_attn.{letter}_proj.weight") for letter in "qkv")
    assert torch.equal(layer.qkv, torch.cat((q, k, v)))
    assert layer.qkv.shape == (32 + 16 + 16, 32)
    gate = random_tensor(CONFIG, 1, "model.layers.1.mlp.gate_proj.weight")
    assert torch.equal(layer.gate_up[:48], gate)


def test_random_weights_depend_on_the_seed_only() -> None:
    names = list(tensor_shapes(CONFIG))
    backwards = {name: random_tensor(CONFIG, 5, name) for name in reversed(names)}
    weights = random_weights(CONFIG, 5)
    assert torch.equal(weights.embedding, backwards["model.embed_tokens.weight"])
    assert not torch.equal(weights.embedding, random_weights(CONFIG, 6).embedding)
    assert float(weights.head.std()) == pytest.approx(0.2, rel=0.1)
    assert float(weights.final_norm.mean()) == pytest.approx(1.0, abs=0.1)


def test_random_weights_are_the_same_on_every_machine() -> None:
    """Workers on different hosts draw them each for itself. The first numbers of the first tensor, for seed 0."""
    values = random_tensor(CONFIG, 0, "model.embed_tokens.weight")[0, :4]
    assert [round(float(value), 6) for value in values] == [0.426194, 0.689128, -0.001851, 0.125846]


def test_tied_embeddings_share_one_tensor(tmp_path: Path) -> None:
    tied = replace(CONFIG, tied_embeddings=True)
    write_random_model(tmp_path, tied, seed=1)
    weights = load_weights(tmp_path, tied)
    assert weights.head.data_ptr() == weights.embedding.data_ptr()


def test_weights_are_cast_and_do_not_need_the_file_any_more(tmp_path: Path) -> None:
    write_random_model(tmp_path, replace(CONFIG, dtype="bfloat16"), seed=1)
    weights = load_weights(tmp_path, CONFIG, torch.float16)
    (tmp_path / SINGLE_FILE).write_bytes(b"")
    assert weights.dtype == torch.float16
    expected = random_tensor(CONFIG, 1, "model.norm.weight").to(torch.bfloat16).to(torch.float16)
    assert torch.equal(weights.final_norm, expected)


def test_missing_unexpected_and_mismatching_tensors_are_told_at_once(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1)
    rewrite(
        tmp_path,
        model__norm__weight=None,
        model__layers__0__mlp__up_proj__weight=torch.zeros(40, 32),
        model__layers__1__self_attn__q_proj__bias=torch.zeros(32),
        lm_head__weight=torch.zeros(64, 32, dtype=torch.int8),
    )
    assert problems_of(tmp_path) == [
        "1 missing tensors: model.norm.weight; the folder is incomplete or of another model than its config.json",
        "1 unexpected tensors: model.layers.1.self_attn.q_proj.bias; config.json describes a model without them: "
        "correct it or the folder",
        "1 tensors of another shape: model.layers.0.mlp.up_proj.weight is [40, 32] instead of [48, 32]; "
        "config.json and the weights disagree: correct config.json",
        "1 tensors of another type: lm_head.weight is I8; "
        "quantized weights are not supported: use a floating-point copy",
    ]


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1)
    (message,) = problems_of(tmp_path, replace(CONFIG, layers=3))
    assert message.startswith("11 missing tensors: model.layers.2.input_layernorm.weight, ")
    assert " and 3 more; " in message


def test_tensors_that_change_nothing_are_ignored(tmp_path: Path) -> None:
    tied = replace(CONFIG, tied_embeddings=True)
    write_random_model(tmp_path, tied, seed=1)
    rewrite(
        tmp_path,
        lm_head__weight=torch.zeros(64, 32),
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4),
    )
    assert load_weights(tmp_path, tied).head.shape == (64, 32)


def test_a_folder_without_safetensors_says_what_is_there(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == [f"holds neither {SINGLE_FILE} nor {INDEX_FILE}; download the weights"]
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    (message,) = problems_of(tmp_path)
    assert message.endswith("found pytorch_model.bin: convert it to safetensors")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1)
    whole = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(whole[:-100])
    (message,) = problems_of(tmp_path)
    assert message.startswith("is no complete safetensors file")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        load_weights(tmp_path, CONFIG)
    assert "model-00002-of-00002.safetensors: no such file, though" in str(caught.value)


def test_a_tensor_that_the_index_promises_and_the_shard_lacks_is_missing(tmp_path: Path) -> None:
    write_random_model(tmp_path, CONFIG, seed=1, shards=2)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    tensors = load_file(shard)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, shard)
    (message,) = problems_of(tmp_path)
    assert message.startswith("1 missing tensors: model.embed_tokens.weight; ")


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/model.safetensors", "model.bin", 3])
def test_an_index_cannot_point_outside_its_folder(file: object, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    (message,) = problems_of(tmp_path)
    assert message == f"model.norm.weight: found {file!r}; the plain name of a safetensors file is required"


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text('{"weight_map": []}')
    assert problems_of(tmp_path) == ["weight_map: an object from tensor names to file names is required"]


def test_a_model_error_survives_the_way_between_processes(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_weights(tmp_path, CONFIG)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ModelError)
    assert again.problems == caught.value.problems
