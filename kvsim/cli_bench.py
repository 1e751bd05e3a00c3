"""The verbs that measure kvsim itself: what a simulation costs, and how fast KV blocks move between processes."""

import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.errors import KvsimError

if TYPE_CHECKING:
    from kvsim.bench import Measurement

bench = typer.Typer(help="Measure kvsim itself.", no_args_is_help=True)


@bench.command("simulator")
def bench_simulator(
    scenarios: Annotated[
        list[Path] | None,
        typer.Argument(help="Scenario files.", show_default="scenarios/bench_4p4d.yaml"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As for 'kvsim run'.", metavar="KEY=VALUE")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each; the median is shown.", min=1)] = 3,
    requests: Annotated[
        list[int] | None,
        typer.Option(help="Numbers of requests to measure, to see the cost of one more. Repeatable.", min=1),
    ] = None,
) -> None:
    """Time whole 'kvsim run' processes: CPU seconds, requests per CPU second, peak memory."""
    from kvsim.bench import bench_table, circumstances, measure, measure_sizes  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    measured: list[Measurement] = []
    for path in scenarios or [Path("scenarios/bench_4p4d.yaml")]:
        if requests:
            measured += measure_sizes(path, tuple(overrides or ()), rounds, requests)
        else:
            measured.append(measure(path, tuple(overrides or ()), rounds))
    print_table(bench_table(measured))
    typer.echo(circumstances())


@bench.command("transfer")
def bench_transfer(
    transports: Annotated[
        str, typer.Option("--transport", help="shm, tcp, message, verbs, cuda_ipc, nixl, mooncake: a list with commas.")
    ] = "shm,tcp,message,verbs,cuda_ipc,nixl,mooncake",
    block_kib: Annotated[str, typer.Option(help="Block sizes in KiB, with commas.")] = "4,16,64,256,1024",
    total_mib: Annotated[str, typer.Option(help="Bytes of one transfer in MiB, with commas.")] = "64,512",
    pool_mib: Annotated[
        int,
        typer.Option(help="Memory of each process that blocks are drawn from, in MiB; verbs needs it twice.", min=1),
    ] = 1024,
    repetitions: Annotated[int, typer.Option(help="Timings of each cell; the median is shown.", min=1)] = 7,
    out: Annotated[
        Path | None, typer.Option(help="Write a link profile of each transport here, for scenarios to use.")
    ] = None,
) -> None:
    """Move scattered KV blocks between two processes: GB/s, latency, and the ratio to memcpy (for cuda_ipc within a
    GPU) and to a plain socket, for verbs also to a plain chain of work requests and to perftest; then what
    the simulator makes of the links fitted to them."""
    try:
        from backends.transport.bench import TransferBenchOptions, measure_transfers  # noqa: PLC0415
        from backends.transport.bench_report import notes, profiles, transfer_table, write_profiles  # noqa: PLC0415
    except ImportError as error:
        raise KvsimError(f"{error}: real transports need 'pip install \"kvsim[engine]\"'") from error
    from kvsim.link_prediction import predict, prediction_table  # noqa: PLC0415
    from kvsim.report.terminal import print_table  # noqa: PLC0415

    options = TransferBenchOptions(
        transports=tuple(name.strip() for name in transports.split(",")),
        block_bytes=tuple(2**10 * size for size in _sizes("--block-kib", block_kib)),
        total_bytes=tuple(2**20 * size for size in _sizes("--total-mib", total_mib)),
        pool_bytes=2**20 * pool_mib,
        repetitions=repetitions,
    )
    on_terminal = sys.stderr.isatty()
    result = measure_transfers(options, lambda line: typer.echo(line, err=True) if on_terminal else None)
    print_table(transfer_table(result))
    for note in notes(result):
        typer.echo(note)
    fitted = profiles(result, date.today().isoformat())
    for profile in fitted:
        points = [(point.block_bytes, point.bytes_per_s, point.latency_ns) for point in profile.points]
        typer.echo(f"{profile.transport}: READs, measured and simulated with the NIC that was fitted to them")
        print_table(prediction_table(predict(profile.nic, profile.total_bytes, points)))
    if out is not None:
        for path in write_profiles(out, fitted):
            typer.echo(f"wrote {path}")


def _sizes(option: str, text: str) -> list[int]:
    """Positive integers with commas between them."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise KvsimError(f"{option} {text}: whole numbers above 0 with commas between them are expected")
    return [int(word) for word in words]
