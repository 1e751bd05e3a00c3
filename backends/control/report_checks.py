"""Whether a worker reports what it was ordered to do. A scheduler trusts its events; this is where they earn it.

One ``OrderedWork`` for each worker, told of every order and shown every report: a report about a run that was never
ordered, about more steps than ordered, with tokens of strangers or with layers that the model does not have raises
``Refusal`` before it reaches the scheduler. A worker has one run at a time and reports in order, so nothing that an
honest worker sends is refused.
"""

from typing import Literal, TypeAlias

from backends.control.messages import Ready, Report
from backends.control.ranges import PeerLimits, check_ids, check_tokens, require
from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    Command,
    DecodeAdvanced,
    LayersReady,
    PrefillDone,
    RequestId,
    RunDecode,
    RunPrefill,
    StartTransfer,
    TransferDone,
    TransferId,
    TransferReleased,
    WorkerId,
)

STEP_NS_MAX = 1 << 53
"""About 100 days: a step that took longer is no measurement."""

_TransferEnd: TypeAlias = Literal["done", "released"]


def check_ready(ready: Ready, transport: str, kv_blocks: int) -> None:
    """The worker has the transport and the pool that the driver plans with. Raises Refusal otherwise."""
    require(ready.transport == transport, f"transport {ready.transport!r} instead of {transport!r}")
    require(ready.kv_blocks == kv_blocks, f"a pool of {ready.kv_blocks} blocks instead of {kv_blocks}")


class OrderedWork:
    """The run and the transfers whose end this worker has still to report."""

    def __init__(self, worker: WorkerId, limits: PeerLimits) -> None:
        self._worker = worker
        self._limits = limits
        self._run: RunPrefill | RunDecode | None = None
        self._steps_left = 0
        self._layers_ready = 0
        self._transfers: set[tuple[TransferId, _TransferEnd]] = set()

    def ordered(self, command: Command) -> None:
        """The driver gives this order, to this worker or (a transfer) to its peer."""
        match command:
            case RunPrefill() | RunDecode():
                assert self._run is None, f"worker {self._worker}: run {command.run} beside {self._run}"
                self._run = command
                self._steps_left = command.steps_max if isinstance(command, RunDecode) else 1
                self._layers_ready = 0
            case StartTransfer(transfer=transfer, source=source, target=target):
                if source == self._worker:
                    self._transfers.add((transfer, "released"))
                if target == self._worker:
                    self._transfers.add((transfer, "done"))
            case _:
                pass

    def forget_transfer(self, transfer: TransferId) -> None:
        """The transfer failed, at either end: nothing more is reported about it."""
        self._transfers.difference_update([(transfer, "done"), (transfer, "released")])

    def knows_transfer(self, transfer: TransferId) -> bool:
        """Whether this worker has still to report about this transfer."""
        return bool(self._transfers & {(transfer, "done"), (transfer, "released")})

    def check(self, report: Report) -> None:
        """Take note of a report. Raises Refusal if this worker cannot have done that."""
        event = report.event
        match event:
            case LayersReady():
                self._check_layers(event)
                check_tokens(report.tokens, {}, self._limits.vocabulary)
            case PrefillDone(worker=worker, run=run, finished=finished):
                prefill = self._open_run(worker, run)
                require(isinstance(prefill, RunPrefill), f"PrefillDone of decode run {run}")
                assert isinstance(prefill, RunPrefill)
                self._check_outputs(report, (*prefill.decoding, *prefill.completes), finished)
                self._run = None
            case DecodeAdvanced():
                self._check_decode(report, event)
            case TransferDone(transfer=transfer, generation=generation):
                check_ids("generation", [generation])
                self._end_transfer(transfer, "done")
                check_tokens(report.tokens, {}, self._limits.vocabulary)
            case TransferReleased(transfer=transfer):
                self._end_transfer(transfer, "released")
                check_tokens(report.tokens, {}, self._limits.vocabulary)
            case _:
                require(False, f"a {type(event).__name__} is not a worker's to report")

    def _open_run(self, worker: WorkerId, run: int) -> RunPrefill | RunDecode:
        require(worker == self._worker, f"a report of worker {worker} from worker {self._worker}")
        open_run = self._run
        require(open_run is not None and open_run.run == run, f"a report of run {run}, which is not open")
        assert open_run is not None
        return open_run

    def _check_layers(self, event: LayersReady) -> None:
        run = self._open_run(event.worker, event.run)
        every = run.announce_layers if isinstance(run, RunPrefill) else 0
        require(every > 0, f"layers of run {event.run}, for which nobody asked")
        expected = self._layers_ready + every
        require(event.layers == expected < self._limits.layers, f"{event.layers} layers ready after {expected - every}")
        self._layers_ready = expected

    def _check_decode(self, report: Report, event: DecodeAdvanced) -> None:
        run = self._open_run(event.worker, event.run)
        require(isinstance(run, RunDecode), f"DecodeAdvanced of prefill run {event.run}")
        assert isinstance(run, RunDecode)
        cut_short = event.steps == 0 and event.ended
        require(cut_short or event.steps == 1 <= self._steps_left, f"{event.steps} steps, {self._steps_left} are left")
        require(event.step_growth_fs == event.carry_fs == 0, "a real worker reports each step by itself")
        require(0 <= event.first_step_fs < STEP_NS_MAX * FEMTOSECONDS_PER_NS, f"a step of {event.first_step_fs} fs")
        self._check_outputs(report, run.batch if event.steps else (), event.finished)
        self._steps_left -= event.steps
        over = bool(event.finished) or self._steps_left == 0
        require(event.ended or not over, f"run {event.run} goes on after its last step")
        if event.ended:
            self._run = None

    def _check_outputs(self, report: Report, batch: tuple[RequestId, ...], finished: tuple[RequestId, ...]) -> None:
        check_tokens(report.tokens, dict.fromkeys(batch, 1), self._limits.vocabulary)
        members = set(finished)
        in_order = tuple(request for request in batch if request in members)
        require(finished == in_order, f"finished {finished} of batch {batch}")

    def _end_transfer(self, transfer: TransferId, end: _TransferEnd) -> None:
        require((transfer, end) in self._transfers, f"transfer {transfer} is {end}, which was not to be told here")
        self._transfers.discard((transfer, end))
