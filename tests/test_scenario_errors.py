"""Scenario files that are wrong: every problem at once, with its place, what was found and what is expected."""

from pathlib import Path

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario import load_scenario, scenario_from_mapping

GOOD = """\
model: llama-3.1-8b
workers:
  prefill: {role: prefill, gpu: h100-sxm, nic: cx7-400g}
  decode: {role: decode, gpu: h100-sxm, nic: cx7-400g}
workload:
  requests: 10
  arrivals: {kind: poisson, rate: 4 req/s}
  lengths:
    prompt_tokens: {kind: fixed, tokens: 100}
    output_tokens: {kind: fixed, tokens: 20}
"""


@pytest.fixture
def problems(tmp_path: Path) -> "Problems":
    return Problems(tmp_path)


class Problems:
    """The lines that a scenario text is answered with; its file is shown as ``s.yaml``."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "s.yaml"

    def __call__(self, text: str, *options: str) -> list[str]:
        self._file.write_text(text)
        with pytest.raises(ScenarioError) as caught:
            load_scenario(self._file, options)
        return str(caught.value).replace(str(self._file), "s.yaml").splitlines()


def test_the_text_that_the_tests_here_spoil_is_good(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GOOD)
    assert load_scenario(file).name == "s"


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("model:", "modle:", "s.yaml:1:1: modle: unknown key (did you mean 'model'?), expected one of: name, "),
        (
            "llama-3.1-8b",
            "llama-3.1-8",
            "s.yaml:1:8: model: found 'llama-3.1-8', expected a preset (did you mean 'llama",
        ),
        ("llama-3.1-8b", "5", "s.yaml:1:8: model: found 5, expected a preset's name or a mapping"),
        (
            "role: prefill",
            "role: prefil",
            "s.yaml:3:19: workers.prefill.role: found 'prefil' (did you mean 'prefill'?)",
        ),
        (
            "gpu: h100-sxm",
            "gpu: h100",
            "s.yaml:3:33: workers.prefill.gpu: found 'h100', expected a preset (did you mean ",
        ),
        ("nic: cx7-400g", "nics: 1", "s.yaml:3:3: workers.prefill.nic: missing, expected this key"),
        ("nic: cx7-400g", "nic: {preset: cx7-400g, rte: 1}", "s.yaml:3:67: workers.prefill.nic.rte: unknown key (did"),
        (
            "nic: cx7-400g",
            "nic: {preset: cx7-400g, rate: 400}",
            "s.yaml:3:73: workers.prefill.nic.rate: found 400 without a unit, expected a rate such as '400 Gbit/s'",
        ),
        (
            "nic: cx7-400g",
            "nic: {preset: cx7-400g, latency: -1 us}",
            "s.yaml:3:76: workers.prefill.nic.latency: found '-1 us', expected a duration that is not negative",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, uplink: rack0",
            "s.yaml:3:66: workers.prefill.uplink: found 'rack0', expected none, as network.uplinks is empty",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, count: 1.5",
            "s.yaml:3:65: workers.prefill.count: found 1.5, expected a whole number",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, count: 1000000000000000000000000000000",
            "s.yaml:3:65: workers.prefill.count: found 1000000000000000000000000000000, expected at most 10000",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, count: true",
            "s.yaml:3:65: workers.prefill.count: found true, expected a whole number",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, kv_memory: 40",
            "s.yaml:3:69: workers.prefill.kv_memory: found 40 without a unit, expected an amount of memory",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, kv_memory: 1 MiB",
            "s.yaml:3:69: workers.prefill.kv_memory: found 1 MiB, expected at least one block of 2 MiB",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, kv_memory: 1 GiB, kv_blocks: 5",
            "s.yaml:3:3: workers.prefill: found both kv_memory and kv_blocks, expected one of them",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, tensor_parallel: 3",
            "s.yaml:3:75: workers.prefill.tensor_parallel: found 3, expected a divisor of the 32 heads",
        ),
        ("  prefill:", "  pre fill:", "s.yaml:3:3: workers.pre fill: found 'pre fill', expected a name of letters"),
        ("requests: 10", "requests: 0", "s.yaml:6:13: workload.requests: found 0, expected at least 1"),
        ("requests: 10", "requests: ten", "s.yaml:6:13: workload.requests: found 'ten', expected a whole number"),
        (
            "  requests: 10\n",
            "",
            "s.yaml:5:1: workload: found arrivals and lengths, expected requests as well, or else phases or a trace",
        ),
        (
            "requests: 10",
            "requests: 10\n  trace: {path: x}",
            "s.yaml:5:1: workload: found trace and requests and arrivals and lengths, expected either",
        ),
        (
            "kind: poisson",
            "kind: poison",
            "s.yaml:7:20: workload.arrivals.kind: found 'poison' (did you mean 'poisson'?), expected one of: poisson, ",
        ),
        ("kind: poisson, ", "", "s.yaml:7:3: workload.arrivals.kind: missing, expected one of: poisson, gamma, fixed"),
        ("kind: poisson", "kind: gamma", "s.yaml:7:3: workload.arrivals.cv: missing, expected this key"),
        (
            "4 req/s",
            "0 req/s",
            "s.yaml:7:35: workload.arrivals.rate: found '0 req/s', expected more than 0",
        ),
        (
            "kind: poisson, rate: 4 req/s",
            "kind: gamma, rate: 4 req/s, cv: .inf",
            "s.yaml:7:46: workload.arrivals.cv: found inf, expected a finite number",
        ),
        (
            "{kind: fixed, tokens: 100}",
            "{kind: uniform, tokens_min: 5, tokens_max: 4}",
            "s.yaml:9:5: workload.lengths.prompt_tokens: found tokens_min 5, expected at most tokens_max 4",
        ),
        (
            "tokens: 100}",
            "tokens: 131072}",
            "s.yaml:8:3: workload.lengths: found requests of up to 131072 + 20 tokens (prompt + output), expected at "
            "most 131072: the context limit of llama-3.1-8b",
        ),
        (
            "nic: cx7-400g",
            "nic: cx7-400g, kv_blocks: 7",
            "s.yaml:8:3: workload.lengths: found requests of up to 100 + 20 tokens (prompt + output), expected at most "
            "112: the KV cache of prefill worker prefill0 (7 blocks of 16 tokens)",
        ),
    ],
)
def test_one_mistake_is_answered_with_one_line_that_names_its_place(
    problems: Problems, good: str, bad: str, line: str
) -> None:
    assert good in GOOD
    lines = problems(GOOD.replace(good, bad, 1))
    # a misspelt key is also a missing one
    lines = [shown for shown in lines if not shown.endswith("model: missing, expected this key")]
    assert len(lines) == 1, lines
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "cache: {layout: [layer, kv, block, token, dim, head]}",
            "cache.layout: found [layer, kv, block, token, dim, head]",
        ),
        ("cache: {layout: [layer, layer, kv, block, token, dim]}", "cache.layout: found [layer, layer, kv"),
        ("cache: {memory_utilization: 1.5}", "cache.memory_utilization: found 1.5, expected at most 1"),
        ("transfer: {mode: pulll}", "transfer.mode: found 'pulll' (did you mean 'pull'?), expected one of: push, pull"),
        ("transfer: {message: {handshake: soon}}", "transfer.message.handshake: found 'soon', expected a duration"),
        ("metrics: [1]", "metrics: found a list, expected a mapping"),
        ("slo: {ttft: 1}", "slo.ttft: found 1 without a unit, expected a duration"),
        ("seed: -1", "seed: found -1, expected at least 0"),
        ("seed: 1\nseed: 2", "seed: found twice, first on line 11, expected once"),
        ("scheduling: {prefill_wait_max: never}", "scheduling.prefill_wait_max: found 'never', expected a duration"),
        ("network: {uplinks: {r: {rate: 1 GB/s}}}", "network.uplinks.r.latency: missing, expected this key"),
        ("variants: {}", "variants: found an empty mapping, expected a mapping from names to changes"),
        ("variants: [a]", "variants: found a list, expected a mapping from names to changes"),
        ("variants: {a: 5}", "variants.a: found 5, expected a mapping of changes"),
        ("variants: {a b: {}}", "variants.a b: found 'a b', expected a name of letters, digits, - and _"),
        ("variants: {a: {seed: 3}}", "variants.a.seed: the same for all variants, expected at the top"),
    ],
)
def test_mistakes_in_other_sections(problems: Problems, keys: str, message: str) -> None:
    lines = problems(f"{GOOD}{keys}\n")
    assert len(lines) == 1, lines
    assert f": {message}" in lines[0]
    assert lines[0].startswith(("s.yaml:11:", "s.yaml:12:"))


def test_all_problems_come_at_once_in_the_order_of_the_file(problems: Problems) -> None:
    text = GOOD.replace("role: prefill", "role: x").replace("4 req/s", "4").replace("requests: 10", "requests: -1")
    lines = problems(text + "slo: {ttft: 5}\nslo: {tpot: 6}\n", "seed=x", "nothing")
    assert [shown.split(": ")[0] for shown in lines] == [
        "s.yaml:3:19",
        "s.yaml:6:13",
        "s.yaml:7:35",
        "s.yaml:12:1",
        "s.yaml:12:13",
        "--set nothing",
        "--set seed=x",
    ]


def test_a_model_that_does_not_fit_names_its_size_and_how_many_gpus_it_needs(problems: Problems) -> None:
    lines = problems(GOOD.replace("llama-3.1-8b", "llama-3.1-70b"))
    assert len(lines) == 2
    assert lines[0].startswith(
        "s.yaml:3:3: workers.prefill.tensor_parallel: found 1 x h100-sxm, expected tensor_parallel of at least 2: "
        "on each GPU llama-3.1-70b takes 131.4 GiB of weights"
    )
    assert lines[0].endswith("memory_utilization 0.9 leaves 71.19 GiB of 79.1 GiB")


def test_a_missing_role_is_told_for_each_role(problems: Problems) -> None:
    both_decode = problems(GOOD.replace("role: prefill", "role: decode"))
    assert len(both_decode) == 1
    assert both_decode[0].startswith("s.yaml:2:1: workers: found no prefill worker, expected a pool with role prefill")
    nobody = problems(GOOD, "workers.prefill.count=0", "workers.decode.count=0")
    assert [shown.split(",")[0] for shown in nobody] == [
        "s.yaml:2:1: workers: found no prefill worker",
        "s.yaml:2:1: workers: found no decode worker",
    ]
    colocated = problems(GOOD.replace("role: decode", "role: colocated"))
    assert any("workers.decode.role: found 'colocated' with transfer.mode pull" in shown for shown in colocated)


def test_two_workers_of_one_name_are_refused() -> None:
    pool = {"role": "prefill", "gpu": "h100-sxm", "nic": "cx7-400g"}
    workers = {"a": {**pool, "count": 11}, "a1": {**pool, "role": "decode"}}
    with pytest.raises(ScenarioError, match=r"workers\.a1: its worker a10 is called as one of pool a: rename one"):
        scenario_from_mapping({"model": "llama-3.1-8b", "workers": workers, "workload": _workload()})


def test_a_problem_inside_a_variant_points_there_and_one_of_the_file_is_told_once(problems: Problems) -> None:
    variants = (
        "variants:\n  a: {}\n  b:\n    transfer.mode: pussh\n  c: {workers.decode.nic: {rate: 5}}\nslo: {ttft: 1}\n"
    )
    lines = problems(GOOD + variants)
    assert [shown.split(", expected")[0] for shown in lines] == [
        "s.yaml:14:20: variants.b.transfer.mode: found 'pussh' (did you mean 'push'?)",
        "s.yaml:15:34: variants.c.workers.decode.nic.rate: found 5 without a unit",
        "s.yaml:16:13: slo.ttft: found 1 without a unit",
    ]


def test_a_problem_that_only_some_variants_have_says_which(problems: Problems) -> None:
    lines = problems(GOOD + "variants: {small: {}, large: {model: llama-3.1-70b}}\n")
    assert [shown.split(": ")[1] for shown in lines] == [
        "workers.prefill.tensor_parallel",
        "workers.decode.tensor_parallel",
    ]
    assert all(shown.endswith(" (variant large)") for shown in lines)


def test_an_option_is_the_place_of_its_own_problems(problems: Problems) -> None:
    assert problems(GOOD, "transfer.mod=push") == [
        "--set transfer.mod=push: transfer.mod: unknown key (did you mean 'mode'?), "
        "expected one of: mode, layers_per_group, message"
    ]
    assert problems(GOOD, "workload.requests=[1") == [
        "--set workload.requests=[1: workload.requests: not valid YAML: "
        "while parsing a flow sequence, did not find expected ',' or ']'"
    ]


def test_a_missing_trace_says_where_to_get_it(problems: Problems) -> None:
    text = GOOD[: GOOD.index("workload")] + "workload:\n  trace: {path: t.csv, source: https://example.org/t}\n"
    assert problems(text) == [
        "s.yaml:6:17: workload.trace.path: found no file 't.csv', expected an existing one "
        "(get it from: https://example.org/t); name another with --set workload.trace.path=FILE"
    ]


def test_files_that_are_no_scenario(problems: Problems, tmp_path: Path) -> None:
    assert problems("") == ["s.yaml: found an empty file, expected a scenario"]
    assert problems("# nothing\n") == ["s.yaml: found an empty file, expected a scenario"]
    assert problems("- a\n") == ["s.yaml:1:1: found a list, expected a mapping"]
    assert problems("a: [1\n")[0].startswith("s.yaml:2:1: not valid YAML: ")
    for path, reason in [(tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(ScenarioError, match=f"cannot read the scenario: {reason}"):
            load_scenario(path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load_scenario(tmp_path / "latin.yaml")


def _workload() -> dict[str, object]:
    fixed = {"kind": "fixed", "tokens": 10}
    arrivals = {"kind": "fixed", "rate": "1 req/s"}
    return {"requests": 1, "arrivals": arrivals, "lengths": {"prompt_tokens": fixed, "output_tokens": fixed}}
