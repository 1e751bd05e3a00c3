"""What is really where in a fuzzed cluster: blocks, KV, runs, transfers, tokens. It carries out what the scheduler
orders and asserts that it may be ordered.

A token that is computed from KV that is not there, or that nobody has proven to be its request's, fails at once; so
does an order to a worker that is gone or of another role, a block that is given twice or taken from under a transfer,
and a request that ends twice.

It must not decide what happens next: ``world`` does.
"""

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    ChooseMode,
    Command,
    CutDecode,
    DecodeAdvanced,
    DismissWorker,
    DrainWorker,
    EndLease,
    Event,
    FinishReason,
    FinishRequest,
    KeepRole,
    LayersReady,
    PrefillDone,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    StopTransfer,
    SwitchRole,
    TransferDone,
    TransferId,
    WorkerId,
)
from kvsim.fuzz.attendance import Attendance
from kvsim.fuzz.holdings import NOTHING, Holding, Moving, Run, Want, ids, named


class Ground:
    """``arrived`` requests have, ``tokens`` counts the output of each, ``ends`` says why those that are over have
    ended."""

    def __init__(self, spec: ClusterSpec, wants: list[Want]) -> None:
        self.spec = spec
        self.attendance = Attendance(spec)
        self.runs: dict[RunId, Run] = {}
        self.moving: dict[TransferId, Moving] = {}
        self.arrived = 0
        self.tokens = [0] * len(wants)
        self.ends: dict[RequestId, FinishReason] = {}
        self.cancelled: set[RequestId] = set()
        self.modes: dict[RequestId, str] = {}
        self._wants = wants
        rules = spec.policy.placement_rules
        self._rules = {kind: [rule.label for rule in rules if rule.kind == kind] for kind in ("kv", "request")}
        self._held: list[dict[RequestId, Holding]] = [{} for _ in spec.workers]
        self._generations: list[dict[int, int]] = [{} for _ in spec.workers]  # by block
        self._left_full: list[dict[int, tuple[RequestId, int]]] = [{} for _ in spec.workers]  # by block: whose, which

    def assert_empty(self) -> None:
        """Nothing is left over when every request has ended."""
        assert not any(self._held), f"blocks are held for nobody: {self._held}"
        leases = self.spec.policy.kv_lease_ns is not None  # then a source may be free before it has heard that it is
        moving = [transfer for transfer, each in self.moving.items() if not (each.done and leases)]
        assert not moving, f"transfers go on for nobody: {moving}"
        assert not self.runs, f"runs go on for nobody: {list(self.runs)}"

    # --- what workers do ----------------------------------------------------------------------------------------------

    def compute(self, run: Run) -> Event:
        """The next report of a prefill run: a group of layers, or its end."""
        command = run.command
        assert isinstance(command, RunPrefill)
        held = self._held[command.worker]
        if command.announce_layers and run.layers + command.announce_layers < self.spec.kv.layers:
            run.layers += command.announce_layers
            for chunk in command.chunks:
                held[chunk.request].layers = run.layers
            return LayersReady(command.worker, command.run, run.layers)
        del self.runs[command.run]
        for chunk in command.chunks:
            holding = held[chunk.request]
            if self.spec.policy.prefix_caching and not holding.kv_tokens:
                holding.kv_tokens = min(chunk.start_token, self._found_again(command.worker, chunk.request))
            assert holding.kv_tokens == chunk.start_token, f"{chunk} behind {holding.kv_tokens} tokens of KV"
            holding.kv_tokens += chunk.tokens
            holding.layers = self.spec.kv.layers
        for request in command.decoding:
            held[request].kv_tokens += 1
        self._grow(command.worker, command.decoding, command.spare_blocks)
        for request in command.completes:
            context_tokens = self._wants[request].prompt_tokens + self.tokens[request]
            assert held[request].kv_tokens == context_tokens, f"request {request}: {held[request].kv_tokens} tokens"
        return PrefillDone(command.worker, command.run, self._speak((*command.completes, *command.decoding)))

    def _found_again(self, worker: WorkerId, request: RequestId) -> int:
        """Tokens at the beginning of a request's blocks that are still as it left them there."""
        tokens = 0
        for place, block in enumerate(self._held[worker][request].blocks):
            if self._left_full[worker].get(block) != (request, place):
                break
            tokens += self.spec.block_tokens(worker)
        return tokens

    def decode(self, run: Run) -> Event:
        """One step of a run, as a real worker reports it."""
        command = run.command
        assert isinstance(command, RunDecode)
        for request in command.batch:
            context_tokens = self._wants[request].prompt_tokens + self.tokens[request] - 1  # the last is not in it yet
            holding = self._held[command.worker][request]
            assert holding.kv_tokens == context_tokens, f"request {request} decodes from {holding.kv_tokens} tokens"
            holding.kv_tokens += 1
        left = self._grow(command.worker, command.batch, command.spare_blocks)
        run.command = RunDecode(command.worker, command.run, command.batch, command.steps_max, left)
        run.steps += 1
        finished = self._speak(command.batch)
        ended = run.cut or bool(finished) or run.steps == command.steps_max
        if ended:
            del self.runs[command.run]
        return DecodeAdvanced(command.worker, command.run, 1, 1_000_000, 0, ended, finished)

    def read(self, moving: Moving) -> None:
        """The last byte leaves the source, and then it is seen whose it was."""
        if moving.found is not None:
            return
        command = moving.command
        generations = self._generations[command.source]
        found = {generations.get(block, 0) for block in ids(command.source_blocks)}
        moving.found = found.pop() if len(found) == 1 else 0
        if moving.found == command.generation:
            source = self._held[command.source][command.request]
            assert ids(command.source_blocks) == source.blocks, "one generation, and other blocks"
            assert command.first_layer + command.layers <= source.layers, "layers that are not there"
            moving.kv_tokens = source.kv_tokens

    def arrive(self, moving: Moving) -> TransferDone:
        """What was read is in the target blocks."""
        self.read(moving)
        command = moving.command
        assert moving.found is not None
        moving.done = True
        target = self._held[command.target][command.request]
        assert ids(command.target_blocks) == target.blocks, "the target blocks have changed hands"
        if moving.found == command.generation:
            assert target.layers == command.first_layer, "layers were left out"
            target.layers += command.layers
        if command.last:
            target.kv_tokens = moving.kv_tokens if moving.found == command.generation else NOTHING
        return TransferDone(command.transfer, moving.found)

    def lose(self, worker: WorkerId) -> tuple[list[Run], list[Moving]]:
        """Everything of the worker is gone. Returns the runs and transfers that end with it."""
        self._held[worker], self._generations[worker], self._left_full[worker] = {}, {}, {}
        runs = [run for run in self.runs.values() if run.command.worker == worker]
        moving = [each for each in self.moving.values() if worker in (each.command.source, each.command.target)]
        for run in runs:
            del self.runs[run.command.run]
        for each in moving:
            del self.moving[each.command.transfer]
        return runs, moving

    def _grow(self, worker: WorkerId, batch: tuple[RequestId, ...], spare: BlockRuns) -> BlockRuns:
        """Contexts that cross a block boundary take their new block. Returns what is left."""
        left = ids(spare)
        for request in batch:
            holding = self._held[worker][request]
            if holding.kv_tokens > len(holding.blocks) * self.spec.block_tokens(worker):
                holding.blocks.append(left.pop(0))
        return tuple((block, 1) for block in left)

    def _speak(self, requests: tuple[RequestId, ...]) -> tuple[RequestId, ...]:
        """Each request has one more token. Returns those whose last it was."""
        for request in requests:
            self.tokens[request] += 1
        return tuple(request for request in requests if self.tokens[request] == self._wants[request].output_tokens)

    # --- what is ordered ----------------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        """Begin or do what was ordered; AssertionError if it cannot be."""
        match command:
            case AssignBlocks():
                self._assign(command)
            case ReleaseBlocks():
                self._release(command)
            case RunPrefill(worker, run) | RunDecode(worker, run):
                self.attendance.assert_serves(worker, *self._roles_for(command))
                assert all(other.command.worker != worker for other in self.runs.values()), "two runs on a worker"
                self.runs[run] = Run(command)
            case CutDecode(_, run):
                if run in self.runs:
                    self.runs[run].cut = True
            case StartTransfer():
                self._start(command)
            case StopTransfer(transfer):
                if transfer in self.moving:
                    self.moving[transfer].stopped = True
            case DismissWorker() | DrainWorker() | KeepRole() | SwitchRole():
                self._change(command)
            case ChooseMode(request, mode):
                assert request not in self.ends, f"{mode} is chosen for request {request}, which is over"
                self.modes[request] = mode
            case EndLease(worker, request):
                assert request in self._held[worker], f"worker {worker} has nothing of request {request}"
            case FinishRequest(request, why):
                self._end(request, why)

    def _change(self, command: DismissWorker | DrainWorker | KeepRole | SwitchRole) -> None:
        """Who goes, or changes its role, has nothing left."""
        if isinstance(command, DismissWorker | SwitchRole):
            self._assert_idle(command.worker)
        if isinstance(command, DismissWorker):
            self.attendance.dismiss(command.worker)
        else:
            self.attendance.change(command, self._context_tokens_max())

    def _context_tokens_max(self) -> int:
        """The longest context of a request that has arrived and is not over."""
        live = [RequestId(request) for request in range(self.arrived) if request not in self.ends]
        return max([self._wants[request].prompt_tokens + self.tokens[request] for request in live], default=0)

    def _roles_for(self, command: RunPrefill | RunDecode) -> tuple[Role, ...]:
        """Who may be ordered a run. Of prompts a decode worker computes those only of which that was said."""
        if isinstance(command, RunDecode):
            return "decode", "colocated"
        local = all(self.modes.get(chunk.request) == "local" for chunk in command.chunks)
        return ("prefill", "colocated", "decode") if local else ("prefill", "colocated")

    def _assert_idle(self, worker: WorkerId) -> None:
        assert not self._held[worker], f"worker {worker} is to go with {self._held[worker]}"
        assert all(run.command.worker != worker for run in self.runs.values()), f"worker {worker} is to go in a run"
        for moving in self.moving.values():
            ends = moving.command.source, moving.command.target
            assert moving.done or worker not in ends, f"worker {worker} is to go in transfer {moving.command.transfer}"

    def _label(self, worker: WorkerId, label: str) -> str:
        return dict(self.spec.workers[worker].labels)[label]

    def _assign(self, command: AssignBlocks) -> None:
        self.attendance.assert_serves(command.worker)
        for rule in self._rules["request"]:
            label = self._label(command.worker, rule)
            assert label == dict(self._wants[command.request].labels)[rule], f"{rule} {label} is not for {command}"
        held = self._held[command.worker]
        taken = {block for holding in held.values() for block in holding.blocks}
        blocks = ids(command.blocks)
        assert not taken & set(blocks), f"a block is given twice: {command}"
        assert command.generation > 0, f"blocks of no generation: {command}"
        assert command.generation not in self._generations[command.worker].values() or command.request in held
        holding = held.setdefault(command.request, Holding())
        for place, block in enumerate(blocks, start=len(holding.blocks)):
            if self._left_full[command.worker].get(block) != (command.request, place):
                self._left_full[command.worker].pop(block, None)
        holding.blocks += blocks
        self._generations[command.worker].update(dict.fromkeys(blocks, command.generation))

    def _release(self, command: ReleaseBlocks) -> None:
        worker, request = command.worker, command.request
        self.attendance.assert_there(worker)
        leases = self.spec.policy.kv_lease_ns is not None
        for moving in self.moving.values():
            order = moving.command
            given_up = leases and (moving.done or moving.stopped)
            read = order.source == worker and not (moving.released or given_up)
            written = order.target == worker and not moving.done
            assert order.request != request or not (read or written), f"blocks are freed under {order.transfer}"
        computing = [run for run in self.runs.values() if run.command.worker == worker and request in named(run)]
        assert not computing, f"request {request} loses its blocks in run {computing}"
        holding = self._held[worker].pop(request)
        full = holding.kv_tokens // self.spec.block_tokens(worker)
        for place, block in enumerate(holding.blocks):
            self._generations[worker].pop(block, None)
            self._left_full[worker][block] = (request, place) if place < full else (request, -1)

    def _start(self, command: StartTransfer) -> None:
        source, target = self.spec.workers[command.source], self.spec.workers[command.target]
        self.attendance.assert_serves(command.source, "prefill")
        self.attendance.assert_serves(command.target, "decode")
        for rule in self._rules["kv"]:
            ends = self._label(command.source, rule), self._label(command.target, rule)
            assert ends[0] == ends[1], f"KV leaves its {rule}, {ends[0]} for {ends[1]}: {command}"
        assert command.path < min(source.paths, target.paths), f"path {command.path} of {source.name}, {target.name}"
        others = [each for each in self.moving.values() if each.command.request == command.request and not each.done]
        assert not others, f"request {command.request} moves twice at a time: {others}, {command}"
        if command.first_layer == 0:
            self._held[command.target][command.request].layers = 0
        self.moving[command.transfer] = Moving(command)

    def _end(self, request: RequestId, why: FinishReason) -> None:
        assert request not in self.ends, f"request {request} ends twice: {self.ends[request]}, {why}"
        self.ends[request] = why
        want, tokens, policy = self._wants[request], self.tokens[request], self.spec.policy
        match why:
            case "stop":
                assert tokens == want.output_tokens, f"request {request} stops after {tokens} tokens: {want}"
            case "length":
                limit = min(want.output_tokens_max, want.output_tokens)
                assert tokens == limit or tokens < want.output_tokens_max, f"request {request}: {tokens} of {want}"
            case "cancelled":
                assert request in self.cancelled, f"nobody has cancelled request {request}"
            case "timeout":
                assert policy.prefill_wait_max_ns is not None, f"request {request} times out without a limit"
                assert not tokens, f"request {request} times out after {tokens} tokens"
            case "shed":
                assert policy.queue_requests_max is not None, f"request {request} is shed without a limit"
                assert not tokens, f"request {request} is shed after {tokens} tokens"
            case "forbidden":
                assert policy.placement_rules, f"request {request} is forbidden without a rule"
            case "too_long" | "failed":
                pass
