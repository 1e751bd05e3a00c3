"""Parts of small scenarios for tests, as a YAML file would hold them."""

from collections.abc import Mapping
from typing import Any


def even_load(requests: int, rate: str, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The section ``workload``: equal requests at equal distances."""
    tokens = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    return {
        "requests": requests,
        "arrivals": {"kind": "fixed", "rate": rate},
        "lengths": {key: {"kind": "fixed", "tokens": value} for key, value in tokens.items()},
    }


def one_request_for_two(pool: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """Llama 3.1 8B on one prefill and one decode worker of this kind, and one request with two tokens of output."""
    return {
        "model": "llama-3.1-8b",
        "workers": {"p": {"role": "prefill", **pool}, "d": {"role": "decode", **pool}},
        "workload": even_load(1, "1 req/s", prompt_tokens, 2),
    }
