"""A small run against files that were read by a person, and the promise that the same seed gives the same bytes.

``pytest tests/test_golden.py --rewrite`` writes the golden files anew. A difference in them is a difference in what
users are told: commit it only if you can say why.
"""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvsim.run_folder import RunFolder
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario

GOLDEN = Path(__file__).parent / "golden"
SCENARIO = GOLDEN / "small.yaml"
RECORD_LINES = 12
RUN_BOTH = """
import sys
from kvsim import load_scenario, run_scenario

scenario, out = sys.argv[1:]
run_scenario(load_scenario(scenario), f"{out}/all", record=True, timeline=True, report=False)
run_scenario(load_scenario(scenario, ("variants=null",)), f"{out}/one")
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvsim.study.VERSION", "0")  # a release changes no result
        return run_scenario(load_scenario(SCENARIO), tmp_path_factory.mktemp("small"), record=True, report=False)


def record_head(run: RunFolder) -> str:
    """The first lines of the streamed variant's record: header, arrivals, groups of layers, transfers."""
    lines = gzip.decompress(run.records["streamed"].read_bytes()).decode().splitlines(keepends=True)
    return "".join(lines[:RECORD_LINES])


@pytest.mark.parametrize("name", ["summary.json", "requests.csv", "record_head.jsonl"])
def test_the_small_run_is_the_golden_one(name: str, small: RunFolder, rewrite: bool) -> None:
    text = {
        "summary.json": lambda: (small.path / "summary.json").read_text(encoding="utf-8"),
        "requests.csv": lambda: small.requests.to_csv(index=False, lineterminator="\n"),
        "record_head.jsonl": lambda: record_head(small),
    }[name]()
    golden = GOLDEN / name
    if rewrite:
        golden.write_text(text, encoding="utf-8", newline="\n")
    assert text == golden.read_text(encoding="utf-8")


def test_the_small_run_shows_what_it_should(small: RunFolder) -> None:
    """Golden files of a run in which nothing happens would guard nothing."""
    variants = small.summary["variants"]
    assert list(variants) == ["pull", "push", "streamed", "message", "colocated"]
    assert all(
        variant["requests"] == {"arrived": 40, "finished": 40, "rejected": 0, "shed": 0, "failed": 0}
        for variant in variants.values()
    )
    assert sum(variant["preemptions"] for variant in variants.values()) > 0
    assert all(variants[mode]["transfers"]["count"] > 40 for mode in ("push", "streamed"))
    assert variants["pull"]["stages_s"]["decode_memory_wait"] > 0
    assert variants["push"]["kv_reserved_unfilled_block_s"]["decode"] > 0


def test_the_resolved_scenario_gives_the_same_run(small: RunFolder, tmp_path: Path) -> None:
    """What a run folder keeps is enough to repeat the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvsim.study.VERSION", "0")
        again = run_scenario(load_scenario(small.path / "scenario.yaml"), tmp_path / "again", record=True, report=False)
    assert files_of(again.path) == files_of(small.path)


@pytest.mark.timeout(300)
def test_two_processes_write_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    """Every file of a run folder: tables, summary, records and timeline of all variants, figures and report of one."""
    processes = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", RUN_BOTH, str(SCENARIO), str(tmp_path / hash_seed)]
        processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}))
    assert [process.wait() for process in processes] == [0, 0]
    one, other = (files_of(tmp_path / hash_seed) for hash_seed in ("1", "2"))
    assert list(one) == list(other)
    assert [name for name in one if one[name] != other[name]] == []
    kinds = {Path(name).suffix for name in one}
    assert kinds >= {".json", ".yaml", ".parquet", ".html", ".png", ".svg", ".gz"}
    assert sum(name.startswith("all/records/") for name in one) == 5


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
