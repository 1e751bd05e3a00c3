"""The pieces of a fuzzed cluster: requests, what they have on a worker, runs and transfers in progress.

Values only; ``ground`` says what becomes of them.
"""

from dataclasses import dataclass, field

from kvsim.core.messages import BlockRuns, Labels, RequestId, RunDecode, RunPrefill, StartTransfer, WorkerId

NOTHING = -1
"""Tokens of KV in blocks whose content is undefined."""


def ids(runs: BlockRuns) -> list[int]:
    """Every block id."""
    return [block for first, blocks in runs for block in range(first, first + blocks)]


@dataclass(frozen=True, slots=True)
class Want:
    """A request: its prompt, the tokens that its output really has, its limit, and what placement rules go by."""

    prompt_tokens: int
    output_tokens: int
    output_tokens_max: int
    labels: Labels = ()


@dataclass(slots=True)
class Holding:
    """What a request has on one worker."""

    blocks: list[int] = field(default_factory=list)
    kv_tokens: int = 0
    layers: int = 0


@dataclass(slots=True)
class Run:
    """A run in progress."""

    command: RunPrefill | RunDecode
    steps: int = 0
    layers: int = 0
    cut: bool = False


@dataclass(slots=True)
class Moving:
    """A transfer in progress. ``found`` is the generation of its source blocks after it has read them. A ``silent`` one
    is over, or never will be, and nobody says so."""

    command: StartTransfer
    done: bool = False
    released: bool = False
    stopped: bool = False
    silent: bool = False
    found: int | None = None
    kv_tokens: int = NOTHING

    def movers(self) -> tuple[WorkerId, ...]:
        """Whose work it is."""
        command = self.command
        if command.kind == "message":
            return command.source, command.target
        return (command.target,) if command.kind == "pull" else (command.source,)


def named(run: Run) -> tuple[RequestId, ...]:
    """The requests that a run computes."""
    command = run.command
    if isinstance(command, RunDecode):
        return command.batch
    return (*(chunk.request for chunk in command.chunks), *command.decoding)
