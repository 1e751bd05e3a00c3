"""The command line as its users meet it: what is printed where, exit statuses, files, and what goes wrong how."""

import gzip
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

import kvsim
from kvsim.cli import app, main
from kvsim.presets.table import LOADERS
from kvsim.units import parse_duration

ROOT = Path(__file__).resolve().parents[1]
SMALL = Path(__file__).parent / "golden" / "small.yaml"
FEW = ("--set", "workload.requests=5")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Cli:
    """``kvsim`` in this process, its output caught: as in a pipe, nothing is a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, *arguments: str | Path) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["kvsim", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        caught = self._capsys.readouterr()
        code = exited.value.code
        return Result(code if isinstance(code, int) else 0, caught.out, caught.err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.fixture
def recorded(cli: Cli, tmp_path: Path) -> Path:
    """A run folder with records of every variant."""
    assert cli("run", SMALL, *FEW, "--no-report", "--record", "--out", tmp_path / "run").status == 0
    return tmp_path / "run"


def summary_of(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert isinstance(summary, dict)
    return summary


def files_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# --- run ---------------------------------------------------------------------------------------------------------


def test_run_prints_a_table_writes_a_folder_and_is_quiet_in_a_pipe(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("run", SMALL, *FEW, "--no-report")
    assert (result.status, result.err) == (0, "")
    assert result.lines[0].split() == ["unit", "pull", "push", "streamed", "message", "colocated"]
    assert any(line.split() == ["finished", "5", "5", "5", "5", "5"] for line in result.lines)
    assert result.lines[-1] == "wrote runs/small"
    assert max(map(len, result.lines)) <= 80
    assert files_in(tmp_path / "runs" / "small") == {
        "scenario.yaml",
        "summary.json",
        "requests.parquet",
        "workers.parquet",
    }


def test_run_draws_a_report_unless_told_not_to(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr("kvsim.study.write_run_report", lambda run: drawn.append(run.path))
    with_report = cli("run", SMALL, *FEW, "--out", tmp_path / "a")
    without = cli("run", SMALL, *FEW, "--out", tmp_path / "b", "--no-report")
    assert drawn == [tmp_path / "a"]
    assert with_report.lines[-1].endswith("(open report.html in it)")
    assert not without.lines[-1].endswith("(open report.html in it)")


def test_set_and_seed_change_what_is_run(cli: Cli, tmp_path: Path) -> None:
    def summary(*options: str) -> dict[str, object]:
        assert cli("run", SMALL, "--no-report", "--out", tmp_path / "run", *options).status == 0
        return summary_of(tmp_path / "run")

    first, again, other_seed = summary(*FEW), summary(*FEW), summary(*FEW, "--seed", "6")
    fewer = summary("--set", "workload.requests=3", "--set", "variants.push=null")
    assert first == again
    assert (first["seed"], other_seed["seed"]) == (5, 6)
    assert first["variants"] != other_seed["variants"]
    variants = fewer["variants"]
    assert isinstance(variants, dict)
    assert {name: variant["requests"]["arrived"] for name, variant in variants.items()} == dict.fromkeys(
        ("pull", "streamed", "message", "colocated"), 3
    )


def test_run_refuses_a_folder_that_holds_something_else(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = cli("run", SMALL, *FEW, "--out", tmp_path)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"{tmp_path}: is not empty and holds no kvsim run; give another folder with --out\n"
    assert files_in(tmp_path) == {"thesis.txt"}


def test_run_writes_a_timeline_and_records_when_asked(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", SMALL, *FEW, "--no-report", "--timeline", "--record", "--out", tmp_path / "run").status == 0
    assert {"trace.json", "records"} <= files_in(tmp_path / "run")
    assert "traceEvents" in json.loads((tmp_path / "run" / "trace.json").read_text(encoding="utf-8"))
    assert len(files_in(tmp_path / "run" / "records")) == 5


def test_notes_go_to_stderr_each_once(cli: Cli, tmp_path: Path) -> None:
    limit = ("--set", "workload.output_tokens_max=3")
    result = cli("run", SMALL, *FEW, *limit, "--no-report", "--out", tmp_path / "run")
    assert result.status == 0
    assert re.fullmatch(r"note: \d of 5 requests would go on beyond output_tokens_max = 3\n", result.err)


# --- what users get wrong ----------------------------------------------------------------------------------------


def test_a_bad_scenario_is_told_with_every_place_and_no_traceback(cli: Cli, tmp_path: Path) -> None:
    text = SMALL.read_text(encoding="utf-8")
    text = (
        text.replace("layers: 4\n", "layers: four\n")
        .replace("rate: 100 MB/s", "rate: 100")
        .replace("requests:", "request:")
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text(text, encoding="utf-8")
    result = cli("run", bad, "--out", tmp_path / "run")
    assert (result.status, result.out) == (2, "")
    lines = result.err.splitlines()
    for key in ("model.layers", "workers.prefill.nic.rate", "workload.request"):
        line = next(line for line in lines if f": {key}: " in line)
        file, row, column, _ = line.split(":", 3)
        assert file == str(bad)
        assert key.split(".")[-1] in text.splitlines()[int(row) - 1]
        assert int(column) > 1
    places = [tuple(map(int, line.split(":")[1:3])) for line in lines]
    assert places == sorted(places)
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_a_scenario_that_is_no_yaml_is_told_with_its_place(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nworkers: [1, 2\nmodel: y\n", encoding="utf-8")
    result = cli("run", bad)
    assert result.status == 2
    assert re.match(rf"{re.escape(str(bad))}:\d+:\d+: ", result.err)


def test_a_missing_scenario_a_bad_option_and_a_missing_trace_are_told(cli: Cli, tmp_path: Path) -> None:
    missing = cli("run", tmp_path / "none.yaml")
    assert (missing.status, missing.err) == (
        2,
        f"{tmp_path / 'none.yaml'}: cannot read the scenario: No such file or directory\n",
    )
    option = cli("run", SMALL, "--set", "workload.requests=many")
    assert option.status == 2
    assert option.err.startswith("--set workload.requests=many: workload.requests: found 'many', expected ")
    text = SMALL.read_text(encoding="utf-8")
    start, end = text.index("workload:"), text.index("slo:")
    traced = tmp_path / "traced.yaml"
    trace = "workload:\n  trace: {path: gone.csv, source: https://example.org/gone.csv}\n\n"
    traced.write_text(text[:start] + trace + text[end:], encoding="utf-8")
    result = cli("run", traced)
    assert result.status == 2
    line = text[:start].count("\n") + 2
    assert result.err.startswith(f"{traced}:{line}:17: workload.trace.path: found no file 'gone.csv'")
    assert "https://example.org/gone.csv" in result.err


@pytest.mark.parametrize(
    "arguments", [["run"], ["frobnicate"], ["list", "cars"], ["run", "x.yaml", "--seed", "-1"], []]
)
def test_a_wrong_call_is_answered_with_usage_and_status_2(arguments: list[str], cli: Cli) -> None:
    result = cli(*arguments)
    assert result.status == 2
    assert re.search(r"Usage: .*kvsim", result.out + result.err)
    assert "Traceback" not in result.err


# --- replay ------------------------------------------------------------------------------------------------------


def test_replay_finds_every_variant_identical(cli: Cli, recorded: Path) -> None:
    result = cli("replay", recorded)
    assert (result.status, result.err) == (0, "")
    pattern = r"{}: identical \(\d+ calls, \d+ events, \d+ commands\)"
    modes = ("pull", "push", "streamed", "message", "colocated")
    assert all(re.fullmatch(pattern.format(mode), line) for mode, line in zip(modes, result.lines, strict=True))
    assert cli("replay", recorded, "--variant", "push").lines == [result.lines[1]]


def test_replay_tells_the_first_difference_of_a_tampered_record(cli: Cli, recorded: Path) -> None:
    path = recorded / "records" / "push.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if b'"type":"StartTransfer"' in line)
    lines[number] = lines[number].replace(b'"last":false', b'"last":true')
    path.write_bytes(gzip.compress(b"".join(lines)))
    result = cli("replay", recorded)
    assert result.status == 1
    assert [line.split(":")[0] for line in result.lines if "identical" in line] == [
        "pull",
        "streamed",
        "message",
        "colocated",
    ]
    place = result.lines.index(next(line for line in result.lines if line.startswith("push: ")))
    assert re.fullmatch(rf"push: different, first in call {number - 1} at \d+ ns:", result.lines[place])
    recorded_command, replayed_command = result.lines[place + 1 : place + 3]
    assert "recorded: StartTransfer(" in recorded_command
    assert "last=True" in recorded_command
    assert "replayed: StartTransfer(" in replayed_command
    assert "last=False" in replayed_command


def test_replay_refuses_a_damaged_record_with_its_line(cli: Cli, recorded: Path) -> None:
    path = recorded / "records" / "pull.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    lines[6] = b"[12, garbage\n"
    path.write_bytes(gzip.compress(b"".join(lines)))
    result = cli("replay", recorded)
    assert result.status == 2
    assert result.err.startswith(f"{path}:7: damaged record: ")
    path.write_bytes(b"not even gzip")
    assert cli("replay", recorded).err.startswith(f"{path}:1: this is no kvsim record: ")


STORY = (
    r"arrives with \d+ prompt tokens",
    r"-> prefill0 gives it \d+ blocks \(.*\)",
    r"-> prefill0 computes its tokens 0 to \d+, step 0",
    r"step 0 on prefill0 is over",
    r"-> decode0 gives it \d+ blocks \(.*\)",
    r"-> pull prefill0 -> decode0: layers 0 to 4, .* in 8 operations, transfer 0",
    r"transfer 0 has arrived",
    r"-> decode0 decodes it in a batch of 1, run \d+",
    r"transfer 0 has let go of its source blocks",
    r"-> prefill0 frees its blocks",
    r"\d+ decode steps of run \d+ on decode0 are over",
    r"\d+ decode steps of run \d+ on decode0 are over; that was its last token",
    r"-> decode0 frees its blocks",
    r"-> finished: stop",
)


def test_replay_tells_the_story_of_a_request_in_order(cli: Cli, recorded: Path) -> None:
    result = cli("replay", recorded, "--variant", "pull", "--request", "0")
    assert result.status == 0
    heading, *lines = result.lines
    assert heading == "pull: request 0"
    times, told = zip(*(line.strip().split("  ", 1) for line in lines), strict=True)
    at_ns = [parse_duration(time) for time in times]
    assert at_ns == sorted(at_ns)
    places = [next(i for i, line in enumerate(told) if re.fullmatch(pattern, line)) for pattern in STORY]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(told) - 1)


def test_replay_of_an_unknown_request_or_variant_or_without_records_says_so(
    cli: Cli, recorded: Path, tmp_path: Path
) -> None:
    unknown = cli("replay", recorded, "--request", "700")
    assert unknown.status == 2
    assert "request 700 is not in this run" in unknown.err
    variant = cli("replay", recorded, "--variant", "shove")
    assert variant.status == 2
    assert variant.err == f"{recorded}: no variant 'shove', only pull, push, streamed, message, colocated\n"
    cli("run", SMALL, *FEW, "--no-report", "--out", tmp_path / "plain")
    plain = cli("replay", tmp_path / "plain")
    assert (plain.status, plain.err) == (2, f"{tmp_path / 'plain'}: holds no records; run the scenario with --record\n")
    nothing = cli("replay", tmp_path / "nothing")
    assert nothing.status == 2
    assert nothing.err.startswith(f"{tmp_path / 'nothing'}: no run folder")


# --- list, schema, version, help ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["models", "gpus", "nics"])
def test_list_shows_every_preset_with_its_source(kind: str, cli: Cli) -> None:
    result = cli("list", kind)
    assert (result.status, result.err) == (0, "")
    header, *lines = result.lines
    place = header.index("source")
    names = [line.split()[0] for line in lines if line[:1].strip("─ ")]
    sources = "".join("".join(line[place:].split()) for line in lines)
    expected = {name: preset.source for name, preset in LOADERS[kind]().items()}
    assert names == list(expected)
    for name, source in expected.items():
        assert source.strip()
        assert "".join(source.split()) in sources, name


def test_schema_prints_the_file_that_editors_use(cli: Cli) -> None:
    result = cli("schema")
    assert result.status == 0
    assert result.out == (ROOT / "kvsim" / "scenario" / "schema.json").read_text(encoding="utf-8")
    assert json.loads(result.out)["title"] == "kvsim scenario"


def test_version_is_that_of_the_package(cli: Cli) -> None:
    result = cli("--version")
    assert (result.status, result.out) == (0, f"kvsim {kvsim.__version__}\n")


def commands() -> Iterator[tuple[list[str], typer.core.TyperCommand]]:
    """Every command with its words, those of groups included."""

    def below(words: list[str], group: typer.core.TyperGroup) -> Iterator[tuple[list[str], typer.core.TyperCommand]]:
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                yield from below([*words, name], command)
            else:
                assert isinstance(command, typer.core.TyperCommand)
                yield [*words, name], command

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    yield from below([], root)


def test_every_command_and_option_has_help(cli: Cli) -> None:
    words = [" ".join(words) for words, _ in commands()]
    assert {"run", "replay", "list", "schema", "bench simulator"} <= set(words)
    for words_of, command in commands():
        result = cli(*words_of, "--help")
        assert result.status == 0
        assert command.help, words_of
        assert " ".join(command.help.split())[:20] in " ".join(result.out.split())
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{words_of}: {parameter.name}"


# --- costs and interruption: processes of their own -----------------------------------------------------------------

IMPORTED = """
import sys
from kvsim.__main__ import main
try:
    main()
except SystemExit as exited:
    assert not exited.code, exited.code
print("imported:", *[name for name in {names!r} if name in sys.modules])
"""


def imported_by(names: list[str], *arguments: str | Path) -> list[str]:
    """Which of these modules a command imports."""
    command = [sys.executable, "-c", IMPORTED.format(names=names), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    marker, *found = done.stdout.splitlines()[-1].split()
    assert marker == "imported:"
    return found


def test_help_imports_nothing_heavy() -> None:
    assert imported_by(["pandas", "matplotlib", "pyarrow", "simpy", "torch", "numpy", "rich"], "--help") == ["rich"]


def test_a_run_without_a_report_imports_only_what_it_needs(tmp_path: Path) -> None:
    arguments = ("run", SMALL, *FEW, "--no-report", "--out", tmp_path / "run")
    unneeded = [
        *("pandas", "matplotlib", "pyarrow.compute", "pyarrow.dataset", "scipy", "torch", "multiprocessing.pool"),
        *("rich.progress", "kvsim.report.figures", "kvsim.report.html", "kvsim.report.timeline"),
        *("kvsim.profile.fit", "kvsim.scenario.explain", "kvsim.plan", "kvsim.sweep", "kvsim.validation", "backends"),
        *("kvsim.cli_real", "kvsim.cli_studies", "kvsim.cli_plan", "kvsim.cli_profile", "kvsim.profile.file_fields"),
    ]
    assert imported_by([*unneeded, "simpy"], *arguments) == ["simpy"]


PROCESS = """
import gc, sys
from kvsim.__main__ import main
imported = "numpy" in sys.modules
threshold = gc.get_threshold()[0]
try:
    main()
except SystemExit:
    pass
print("before:", imported, threshold < 10_000, "after:", gc.get_threshold()[0] >= 100_000, gc.get_freeze_count() > 0)
"""


def test_only_a_process_of_the_command_line_collects_its_garbage_late() -> None:
    """Notebooks import the same packages: importing the entry point changes nothing, calling it does."""
    done = subprocess.run([sys.executable, "-c", PROCESS, "schema"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "before: False True after: True True"


def test_python_runs_the_package_as_the_command() -> None:
    command = [sys.executable, "-m", "kvsim", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"kvsim {kvsim.__version__}\n"


def test_bench_prints_a_row_a_scenario(cli: Cli) -> None:
    result = cli("bench", "simulator", SMALL, *FEW, "--set", "variants=null", "--rounds", "1")
    assert (result.status, result.err) == (0, "")
    *header, _, row, machine = result.lines
    assert "additions in a plain loop" in machine
    assert header[-1].split()[:4] == ["scenario", "requests", "CPU", "s"]
    assert row.split()[:2] == ["small", "5"]
    assert float(row.split()[2]) > 0


def test_bench_tells_what_one_request_more_costs(cli: Cli) -> None:
    sizes = ("--requests", "40", "--requests", "5")
    result = cli("bench", "simulator", SMALL, "--set", "variants=null", "--rounds", "1", *sizes)
    *_, first, second, _ = (line.split() for line in result.lines)
    assert [first[1], second[1]] == ["5", "40"]
    more_ms = 1e3 * (float(second[2]) - float(first[2])) / 35
    assert float(second[-2]) == pytest.approx(more_ms, abs=0.01 / 35 * 1e3)


@pytest.mark.parametrize("option", ["--block-kib", "--total-mib"])
def test_bench_transfer_tells_which_sizes_it_understands(cli: Cli, option: str) -> None:
    result = cli("bench", "transfer", option, "4,many")
    assert (result.status, result.out) == (2, "")
    assert f"{option} 4,many: whole numbers above 0" in result.err


def test_bench_transfer_names_the_transports_that_there_are(cli: Cli) -> None:
    result = cli("bench", "transfer", "--transport", "carrier-pigeon")
    assert result.status == 2
    assert "carrier-pigeon" in result.err
    assert "shm" in result.err


def test_bench_tells_what_is_wrong_with_a_scenario(cli: Cli, tmp_path: Path) -> None:
    result = cli("bench", "simulator", tmp_path / "none.yaml")
    assert result.status == 2
    assert "cannot read the scenario" in result.err


def test_ctrl_c_keeps_the_variants_that_are_finished(tmp_path: Path) -> None:
    """The first variant is small and the second endless; its record tells when it has begun."""
    out = tmp_path / "run"
    variants = "variants={first: {workload.requests: 5}, second: {workload.requests: 2000000}}"
    arguments = ["run", str(SMALL), "--set", "variants=null", "--set", variants, "--record", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "kvsim", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        begun = out / "records" / "second.jsonl.gz"
        while not begun.exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    run = kvsim.load_run(out)
    assert run.summary["interrupted"] is True
    assert list(run.summary["variants"]) == ["first"]
    assert len(run.requests) == 5
    assert list(run.records) == ["first"]
    assert kvsim.replay_file(run.records["first"]).identical
