"""Reading config.json: what is understood, and that everything wrong is told at once with its key."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends.model.config import ModelConfig, RopeSpec
from backends.model.config_file import write_config
from backends.model.errors import ModelError
from backends.model.presets import MODEL_PRESETS, model_preset

LLAMA_3_1_8B: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "eos_token_id": [128001, 128008, 128009],
    "torch_dtype": "bfloat16",
}
"""As published (meta-llama/Llama-3.1-8B-Instruct), in the older spelling of the rotary embedding."""

QWEN3_0_6B: dict[str, object] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": None,
    "eos_token_id": 151645,
    "dtype": "bfloat16",
}
"""As published (Qwen/Qwen3-0.6B), in the newer spelling."""


def read(folder: Path, values: dict[str, object], generation: dict[str, object] | None = None) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelConfig.from_folder(folder)


def problems_of(folder: Path, values: dict[str, object]) -> dict[str, str]:
    with pytest.raises(ModelError) as caught:
        read(folder, values)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_llama_3_1_is_read_in_the_older_spelling(tmp_path: Path) -> None:
    config = read(tmp_path, LLAMA_3_1_8B)
    assert config.rope == RopeSpec("llama3", 500_000.0, 8.0, 8192, low_frequency_factor=1.0, high_frequency_factor=4.0)
    assert (config.head_dim, config.kv_heads, config.norm_epsilon, config.dtype) == (128, 8, 1e-5, "bfloat16")
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert not config.tied_embeddings
    assert config.parameters() == 8_030_261_248  # 8.03 B, the size of the published checkpoint


def test_qwen3_is_read_in_the_newer_spelling(tmp_path: Path) -> None:
    config = read(tmp_path, QWEN3_0_6B)
    assert config.rope == RopeSpec(theta=1e6)
    assert config.qk_norm
    assert not config.qkv_bias
    assert config.tied_embeddings
    assert config.eos_token_ids == (151645,)
    assert config.kv_elements_per_token() == 2 * 28 * 8 * 128


def test_qwen2_has_biases_on_queries_keys_and_values_only(tmp_path: Path) -> None:
    config = read(tmp_path, {**QWEN3_0_6B, "model_type": "qwen2", "head_dim": None})
    assert (config.qkv_bias, config.output_bias, config.qk_norm) == (True, False, False)
    assert config.head_dim == 1024 // 16


def test_generation_config_says_what_ends_a_sequence(tmp_path: Path) -> None:
    config = read(tmp_path, QWEN3_0_6B, {"eos_token_id": [151645, 151643]})
    assert config.eos_token_ids == (151645, 151643)


def test_without_any_end_token_only_lengths_end_a_sequence(tmp_path: Path) -> None:
    assert read(tmp_path, {**QWEN3_0_6B, "eos_token_id": None}, {"do_sample": True}).eos_token_ids == ()


def test_yarn_derives_its_attention_factor(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = read(tmp_path, {**QWEN3_0_6B, "rope_parameters": None, "rope_scaling": yarn, "rope_theta": 1e6})
    assert config.rope.kind == "yarn"
    assert config.rope.attention_factor == pytest.approx(1.1386294361)  # 0.1 ln 4 + 1
    ratio = read(tmp_path, {**QWEN3_0_6B, "rope_parameters": {**yarn, "mscale": 0.5, "mscale_all_dim": 2.0}})
    assert ratio.rope.attention_factor == pytest.approx(1.0693147181 / 1.2772588722)


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_a_written_configuration_is_read_back(name: str, tmp_path: Path) -> None:
    config = model_preset(name)
    write_config(tmp_path, config)
    assert ModelConfig.from_folder(tmp_path) == config


@pytest.mark.parametrize(
    "rope",
    [RopeSpec("linear", 1e4, 2.0), RopeSpec("llama3", 1e5, 8.0, 64), RopeSpec("yarn", 1e4, 4.0, 64, truncate=False)],
)
def test_a_written_rotary_embedding_is_read_back(rope: RopeSpec, tmp_path: Path) -> None:
    config = replace(model_preset("tiny"), rope=rope)
    write_config(tmp_path, config)
    assert ModelConfig.from_folder(tmp_path) == config


def test_presets_have_the_sizes_that_their_page_states() -> None:
    tiny, small = model_preset("tiny"), model_preset("small")
    assert (tiny.parameters(), small.parameters()) == (3_082_496, 30_941_696)
    assert (4 * tiny.kv_elements_per_token(), 4 * small.kv_elements_per_token()) == (2048, 8192)  # bytes in fp32


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="huge: no such random model; accepted: tiny, small, or a model folder"):
        model_preset("huge")


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    wrong: dict[str, object] = {
        **LLAMA_3_1_8B,
        "hidden_size": None,
        "num_key_value_heads": 5,
        "hidden_act": "gelu",
        "mlp_bias": True,
        "rms_norm_eps": "small",
        "quantization_config": {"quant_method": "awq"},
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "eos_token_id": 999999,
        "dtype": "float8_e4m3fn",
        "tie_word_embeddings": "no",
        "vocab_size": 100.5,
    }
    assert set(problems_of(tmp_path, wrong)) == {
        "hidden_size",
        "num_key_value_heads",
        "hidden_act",
        "mlp_bias",
        "rms_norm_eps",
        "quantization_config",
        "rope_scaling.rope_type",
        "eos_token_id",
        "dtype",
        "tie_word_embeddings",
        "vocab_size",
    }


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional"])
def test_an_unsupported_rotary_embedding_is_named(kind: str, tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {**QWEN3_0_6B, "rope_parameters": {"rope_type": kind, "factor": 2.0}})
    assert problems == {
        "rope_parameters.rope_type": f"found {kind!r}; supported are default, linear, llama3, yarn",
    }


def test_partly_rotated_heads_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    assert list(problems_of(tmp_path, {**QWEN3_0_6B, "rope_parameters": rope})) == [
        "rope_parameters.partial_rotary_factor"
    ]


def test_llama3_bounds_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}
    problems = problems_of(tmp_path, {**LLAMA_3_1_8B, "rope_scaling": rope})
    assert problems == {"rope_scaling.high_freq_factor": "found 1; must be above low_freq_factor, 4"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}, "use_sliding_window"),
        ({"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}, "layer_types"),
    ],
)
def test_sliding_windows_are_refused(values: dict[str, object], key: str, tmp_path: Path) -> None:
    assert list(problems_of(tmp_path, {**QWEN3_0_6B, **values})) == [key]


def test_a_window_that_no_layer_uses_is_accepted(tmp_path: Path) -> None:
    unused = {"use_sliding_window": True, "max_window_layers": 28, "layer_types": ["full_attention"] * 28}
    assert read(tmp_path, {**QWEN3_0_6B, **unused}).layers == 28


def test_another_architecture_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, {**LLAMA_3_1_8B, "model_type": "mixtral", "hidden_act": "gelu"})
    assert problems == {"model_type": "found 'mixtral'; supported are llama, qwen2, qwen3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; give the folder of a Hugging Face model"),
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        ModelConfig.from_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_configurations_are_read_without_torch() -> None:
    """The driver does it, and starts in a fraction of the time that torch takes to import."""
    code = "import sys, backends.model.config_file, backends.model.presets; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
