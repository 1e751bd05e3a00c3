"""A profile as a terminal table: where it comes from, what it holds, in which unit. It must not compute anything."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def profile_table(profile: Mapping[str, Any]) -> "Table":
    """One fact a row. ``profile`` as its file holds it."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=False)
    table.add_column("", no_wrap=True, style="dim")
    table.add_column("", overflow="fold")
    for name, fact in facts(profile):
        table.add_row(Text(name), Text(fact))
    return table


def facts(profile: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, value with its unit) of everything in the file but single rows."""
    for name in ("name", "origin", "date", "machine", "engine"):
        if profile.get(name):
            yield name, str(profile[name])
    if profile["versions"]:
        yield "versions", ", ".join(f"{name} {version}" for name, version in profile["versions"].items())
    if profile.get("model"):
        yield "model", f"{profile['model']['name']}, tensor parallelism {profile['tensor_parallel']}"
    if profile.get("steps"):
        prefill, decode = profile["steps"]["prefill"]["tokens"], profile["steps"]["decode"]
        yield "prefill steps", f"{len(prefill)} from {prefill[0]['tokens']:,} to {prefill[-1]['tokens']:,} tokens, ns"
        yield "decode steps", f"{len(decode)} from {decode[0]['requests']:,} to {decode[-1]['requests']:,} requests, ns"
    for name, link in profile["transports"].items():
        yield f"transport {name}", f"{link['rate']}, {link['latency']}"
    if profile.get("slowdown"):
        yield "slowdown", "by busy workers: " + ", ".join(f"{factor:g}" for factor in profile["slowdown"])
    for name, table in profile["tables"].items():
        yield f"table {name}", f"{table['rows']:,} rows in {table['file']}"
        for column, meaning in table["columns"].items():
            yield f"  {column}", meaning
    for name, residual in profile["residuals"].items():
        share = f"mean {residual['mean']:.1%}, largest {residual['largest']:.1%}"
        yield f"residual {name}", f"{share} of {residual['points']:,} points"
    for note in profile["notes"]:
        yield "note", note
