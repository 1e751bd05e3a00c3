"""The command line: one verb, one job. Every verb is a thin wrapper around a documented Python call.

What the user did wrong is printed as plain lines and answered with exit status 2, an interruption with 130, a failed
check with 1. A verb's module is imported when the verb is asked for, and what the verb works with inside the verb: both
keep ``kvsim`` quick.
"""

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from kvsim.errors import KvsimError

_HOMES = {
    "run": "kvsim.cli_run:run",
    "replay": "kvsim.cli_run:replay",
    "audit": "kvsim.cli_audit:audit",
    "sweep": "kvsim.cli_studies:sweep",
    "compare": "kvsim.cli_studies:compare",
    "explain": "kvsim.cli_explain:explain",
    "calibrate": "kvsim.cli_real:calibrate",
    "validate": "kvsim.cli_real:validate",
    "chaos": "kvsim.cli_chaos:chaos",
    "doctor": "kvsim.cli_doctor:doctor",
    "fidelity": "kvsim.cli_profile:fidelity",
    "fuzz": "kvsim.cli_fuzz:fuzz",
    "plan": "kvsim.cli_plan:plan",
    "list": "kvsim.cli_show:list_presets",
    "schema": "kvsim.cli_show:schema",
    "bench": "kvsim.cli_bench:bench",
    "profile": "kvsim.cli_profile:profile",
}
"""Every verb, in the order of ``kvsim --help``, and where it is: a function, or a group of further verbs."""


class _Verbs(Mapping[str, Any]):
    """The commands of ``_HOMES``, each made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._made:
            self._made[verb] = _make(verb, *_HOMES[verb].split(":"))
        return self._made[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


def _make(verb: str, module: str, name: str) -> Any:
    """The command of a verb."""
    found = getattr(import_module(module), name)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
        command.name = verb
        return command
    alone = typer.Typer(add_completion=False)
    alone.command(verb)(found)
    return typer.main.get_command(alone)


class _Group(TyperGroup):
    """``kvsim`` itself. Of all its verbs it loads the one that is asked for, where ``--help`` does not ask for all."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("MutableMapping[str, Any]", _Verbs())  # nobody adds any


app = typer.Typer(
    name="kvsim",
    cls=_Group,
    help="Study disaggregated LLM inference: one scheduler core that drives a simulator or real GPU workers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Do what the command line says, and leave the process. ``kvsim.__main__`` calls it."""
    try:
        app()
    except KvsimError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kvsim.version import VERSION  # noqa: PLC0415

        typer.echo(f"kvsim {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""
