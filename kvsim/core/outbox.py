"""The commands of the call in progress, and the ids that are never used twice.

It must not decide: it collects.
"""

from kvsim.core.messages import (
    ChooseMode,
    Command,
    EndLease,
    FinishRequest,
    RunId,
    StartTransfer,
    StopTransfer,
    SwitchId,
    TransferId,
    WorkerId,
)


class Outbox:
    """Where every part of the core puts its commands. ``take`` empties it."""

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._runs = 0
        self._transfers = 0
        self._switches = 0
        self._generations = 0

    def put(self, command: Command) -> None:
        """One more command of this call."""
        self._commands.append(command)

    def next_run(self) -> RunId:
        """A new run id."""
        self._runs += 1
        return RunId(self._runs - 1)

    def next_transfer(self) -> TransferId:
        """A new transfer id."""
        self._transfers += 1
        return TransferId(self._transfers - 1)

    def next_switch(self) -> SwitchId:
        """A new id of a change of role."""
        self._switches += 1
        return SwitchId(self._switches - 1)

    def next_generation(self) -> int:
        """A new generation of blocks, from 1: whoever names an older one means blocks that have changed hands."""
        self._generations += 1
        return self._generations

    def drop(self, worker: WorkerId) -> None:
        """Take back what this call has ordered a worker to do that turns out to be gone."""
        self._commands[:] = [command for command in self._commands if worker not in _addressed(command)]

    def take(self) -> list[Command]:
        """The commands so far, in order."""
        commands = self._commands
        self._commands = []
        return commands


def _addressed(command: Command) -> tuple[WorkerId, ...]:
    """The workers that have to do something."""
    # a transfer that is lost need not be stopped: harmless
    if isinstance(command, FinishRequest | ChooseMode | EndLease | StopTransfer):
        return ()
    if isinstance(command, StartTransfer):
        return command.source, command.target
    return (command.worker,)
