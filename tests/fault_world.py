"""A world without durations in which everything that can go wrong does: workers are lost, join and leave, transfers
fail, clients go away, reports come late. It plays the driver of a scheduler and keeps its own books.

Whatever the scheduler orders is checked against what is really where: which blocks a request has, how many tokens of
its KV are in them, and who may still read or write them. A token computed from KV that is not there fails the test at
once, and so does an order to a worker that is gone.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import msgspec
from worlds import cluster

from kvsim.core.cluster import (
    ClusterSpec,
    ControllerRoles,
    PlacementRule,
    PolicySpec,
    RoleSpec,
    ThresholdRoles,
    TransferMode,
)
from kvsim.core.messages import (
    AssignBlocks,
    BlockRuns,
    ChooseMode,
    Command,
    CutDecode,
    DeadlineReached,
    DecodeAdvanced,
    DismissWorker,
    DrainWorker,
    Event,
    FinishRequest,
    KeepRole,
    Labels,
    LayersReady,
    PrefillDone,
    Record,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestCancelled,
    RequestId,
    RoleSwitched,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    SwitchRole,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.core.scheduler import Scheduler


def ids(runs: BlockRuns) -> list[int]:
    """Every block id."""
    return [block for first, blocks in runs for block in range(first, first + blocks)]


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
    """A transfer in progress."""

    command: StartTransfer
    done: bool = False
    released: bool = False
    kv_tokens: int = 0


class FaultWorld:
    """``wants`` gives each request as (prompt tokens, tokens that its output really has, its limit). ``faults`` is the
    share of the happenings that are faults while requests still arrive."""

    def __init__(self, spec: ClusterSpec, wants: list[tuple[int, int, int]], random: Random, faults: float) -> None:
        self.spec = spec
        self.scheduler = Scheduler(spec)
        self.records: list[Record] = []
        self.ends: dict[RequestId, str] = {}
        self.choices: Counter[str] = Counter()
        self._modes: dict[RequestId, str] = {}
        self._tenants: list[str] = []
        self.tokens = [0] * len(wants)
        self._wants = wants
        self._random = random
        self._faults = faults
        self._arrived = 0
        self._now_ns = 0
        self._present = [worker.present for worker in spec.workers]
        self._leaving = [False] * len(spec.workers)
        self._cancelled: set[RequestId] = set()
        self._held: list[dict[RequestId, Holding]] = [{} for _ in spec.workers]
        self._runs: dict[RunId, Run] = {}
        self._moving: dict[TransferId, Moving] = {}
        self._late: list[Event] = []
        self._unsaid: list[Event] = []
        self._changed: set[WorkerId] = set()
        self.switched = 0
        self._roles = [worker.role for worker in spec.workers]
        self._draining: set[WorkerId] = set()
        self._switching: dict[WorkerId, SwitchRole] = {}

    def play(self, calls_max: int = 20_000) -> None:
        """Until every request has ended. Faults end with the arrivals; then every worker comes back."""
        while len(self.ends) < len(self._wants) or self.scheduler.requests_live:
            assert len(self.records) < calls_max, f"no end: {len(self.ends)} of {len(self._wants)} requests ended"
            events = self._happenings()
            assert events, f"deadlock: {self.scheduler.requests_live} requests wait for nothing"
            self._pass_time()
            commands = self.scheduler.handle(self._now_ns, events)
            self.scheduler.check()
            self.records.append(Record(self._now_ns, tuple(events), tuple(commands)))
            for command in commands:
                self._carry_out(command)
        assert not any(self._held), "blocks are held for nobody"
        assert not self._moving, "transfers go on for nobody"

    def _pass_time(self) -> None:
        """A little, and never past the instant at which the scheduler wants to be asked."""
        deadline_ns = self.scheduler.deadline_ns
        later_ns = self._now_ns + self._random.choice((0, 1, 5))
        self._now_ns = later_ns if deadline_ns is None else max(self._now_ns, min(later_ns, deadline_ns))

    # --- what happens -------------------------------------------------------------------------------------------------

    def _happenings(self) -> list[Event]:
        """One to three things that happen at one instant."""
        self._changed.clear()
        self._late += self._unsaid  # in the instant of the loss it would count as said before
        self._unsaid.clear()
        events: list[Event] = []
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            faulty = self._arrived < len(self._wants) and self._random.random() < self._faults
            event = self._fault() if faulty else self._progress()
            if event is not None:
                events.append(event)
        return events or [event for event in [self._progress(), self._fault()] if event is not None]

    def _progress(self) -> Event | None:
        choices: list[object] = [*self._runs.values(), *self._moving.values(), *self._switching.values()]
        if self.scheduler.deadline_ns is not None:
            choices.append("deadline")
        if self._arrived < len(self._wants):
            choices.append("arrival")
        else:
            away = [worker for worker, present in enumerate(self._present) if not present]
            choices += [worker for worker in away if worker not in self._changed]
        if not choices:
            return None
        match self._random.choice(choices):
            case Run(RunPrefill()) as run:
                return self._compute(run)
            case Run(RunDecode()) as run:
                return self._decode(run)
            case Moving() as moving:
                return self._move(moving)
            case int(worker):
                return self._join(worker)
            case SwitchRole(worker, switch):
                del self._switching[worker]
                return RoleSwitched(worker, switch)
            case "deadline":
                assert self.scheduler.deadline_ns is not None
                self._now_ns = max(self._now_ns, self.scheduler.deadline_ns)
                return DeadlineReached()
        prompt, _, limit = self._wants[self._arrived]
        self._arrived += 1
        return RequestArrived(Request(RequestId(self._arrived - 1), prompt, limit, self._labels()))

    def _labels(self) -> Labels:
        """A tenant, if there are any."""
        if not self.spec.policy.placement_rules:
            return ()
        self._tenants.append(self._random.choice("xy"))
        return (("tenant", self._tenants[-1]),)

    def _compute(self, run: Run) -> Event:
        command = run.command
        assert isinstance(command, RunPrefill)
        if command.announce_layers and run.layers + command.announce_layers < self.spec.kv.layers:
            run.layers += command.announce_layers
            for chunk in command.chunks:
                self._held[command.worker][chunk.request].layers = run.layers
            return LayersReady(command.worker, command.run, run.layers)
        del self._runs[command.run]
        for chunk in command.chunks:
            holding = self._held[command.worker][chunk.request]
            assert holding.kv_tokens == chunk.start_token, (holding, chunk)
            holding.kv_tokens += chunk.tokens
            holding.layers = self.spec.kv.layers
        for request in command.decoding:
            self._held[command.worker][request].kv_tokens += 1
        self._grow(command.worker, command.decoding, command.spare_blocks)
        for request in command.completes:
            context = self._wants[request][0] + self.tokens[request]
            assert self._held[command.worker][request].kv_tokens == context, f"request {request}: not its context"
        return PrefillDone(command.worker, command.run, self._speak((*command.completes, *command.decoding)))

    def _decode(self, run: Run) -> Event:
        """One step of a run, as a real worker reports it."""
        command = run.command
        assert isinstance(command, RunDecode)
        for request in command.batch:
            context = self._wants[request][0] + self.tokens[request] - 1  # the last token is not in the cache yet
            assert self._held[command.worker][request].kv_tokens == context, f"request {request} decodes wrong KV"
            self._held[command.worker][request].kv_tokens += 1
        taken = self._grow(command.worker, command.batch, command.spare_blocks)
        run.command = RunDecode(command.worker, command.run, command.batch, command.steps_max, taken)
        run.steps += 1
        finished = self._speak(command.batch)
        ended = run.cut or bool(finished) or run.steps == command.steps_max
        if ended:
            del self._runs[command.run]
        return DecodeAdvanced(command.worker, command.run, 1, 1_000_000, 0, ended, finished)

    def _grow(self, worker: WorkerId, batch: tuple[RequestId, ...], spare: BlockRuns) -> BlockRuns:
        """Contexts that cross a block boundary take their new block. Returns what is left."""
        left = ids(spare)
        for request in batch:
            holding = self._held[worker][request]
            if holding.kv_tokens > len(holding.blocks) * self.spec.kv.block_tokens:
                holding.blocks.append(left.pop(0))
        return tuple((block, 1) for block in left)

    def _speak(self, requests: tuple[RequestId, ...]) -> tuple[RequestId, ...]:
        """Each request has one more token. Returns those whose last it was."""
        for request in requests:
            self.tokens[request] += 1
        return tuple(request for request in requests if self.tokens[request] == self._wants[request][1])

    def _move(self, moving: Moving) -> Event:
        """The next of the two reports of a transfer, which may come in either order."""
        command = moving.command
        if moving.done or (not moving.released and self._random.random() < 0.3):
            if not moving.done:
                self._read(moving)
            moving.released = True
            if moving.done:
                del self._moving[command.transfer]
            return TransferReleased(command.transfer)
        if not moving.released:
            self._read(moving)
        target = self._held[command.target][command.request]
        assert ids(command.target_blocks) == target.blocks, "the target blocks have changed hands"
        assert target.layers == command.first_layer, "layers were left out"
        target.layers += command.layers
        if command.last:
            target.kv_tokens = moving.kv_tokens
        moving.done = True
        if moving.released:
            del self._moving[command.transfer]
        return TransferDone(command.transfer, command.generation)

    def _read(self, moving: Moving) -> None:
        """The bytes leave the source."""
        command = moving.command
        source = self._held[command.source][command.request]
        assert ids(command.source_blocks) == source.blocks, "the source blocks have changed hands"
        assert command.first_layer + command.layers <= source.layers, "layers that are not there"
        moving.kv_tokens = source.kv_tokens

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _fault(self) -> Event | None:
        kind = self._random.choice(("lose", "join", "leave", "cancel", "fail", "late"))
        worker = WorkerId(self._random.randrange(len(self._present)))
        if kind in ("lose", "join", "leave") and worker in self._changed:
            return None  # at most one of these a worker and an instant
        if kind == "lose" and self._present[worker]:
            return self._lose(worker)
        if kind == "join" and not self._present[worker]:
            return self._join(worker)
        if kind == "leave" and self._present[worker]:
            self._leaving[worker] = True
            self._draining.discard(worker)
            self._changed.add(worker)
            return WorkerLeaving(worker)
        if kind == "cancel" and self._arrived:
            request = RequestId(self._random.randrange(self._arrived))
            self._cancelled.add(request)
            return RequestCancelled(request)
        if kind == "fail" and self._moving:
            transfer = self._random.choice(list(self._moving))
            del self._moving[transfer]
            return TransferFailed(transfer)
        return self._random.choice(self._late) if kind == "late" and self._late else None

    def _lose(self, worker: WorkerId) -> Event:
        """Everything of the worker is gone; what it would have reported comes late, if at all."""
        self._present[worker] = self._leaving[worker] = False
        self._changed.add(worker)
        self._held[worker] = {}
        self._stop_switch(worker)
        for run in [run for run in self._runs.values() if run.command.worker == worker]:
            del self._runs[run.command.run]
            if isinstance(run.command, RunDecode):
                self._unsaid.append(DecodeAdvanced(worker, run.command.run, 1, 1, 0, ended=True))
            else:
                self._unsaid.append(PrefillDone(worker, run.command.run))
                if run.command.announce_layers:
                    self._unsaid.append(LayersReady(worker, run.command.run, 1))
        for moving in [
            moving for moving in self._moving.values() if worker in (moving.command.source, moving.command.target)
        ]:
            transfer = moving.command.transfer
            del self._moving[transfer]
            self._unsaid += [TransferDone(transfer), TransferReleased(transfer), TransferFailed(transfer)]
        return WorkerLost(worker)

    def _stop_switch(self, worker: WorkerId) -> None:
        self._draining.discard(worker)
        switch = self._switching.pop(worker, None)
        if switch is not None:
            self._unsaid.append(RoleSwitched(worker, switch.switch))

    def _join(self, worker: int) -> Event:
        self._present[worker] = True
        self._changed.add(WorkerId(worker))
        return WorkerJoined(WorkerId(worker))

    # --- what is ordered ----------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        match command:
            case AssignBlocks(worker, request, blocks):
                self._assert_serves(worker)
                self._assert_permitted(worker, request)
                taken = {block for holding in self._held[worker].values() for block in holding.blocks}
                assert not taken & set(ids(blocks)), "a block is given twice"
                self._held[worker].setdefault(request, Holding()).blocks += ids(blocks)
            case ReleaseBlocks(worker, request):
                self._assert_there(worker)
                for moving in self._moving.values():
                    order = moving.command
                    read = order.source == worker and not moving.released
                    written = order.target == worker and not moving.done
                    assert order.request != request or not (read or written), "blocks are freed under a transfer"
                assert not any(request in named(run) for run in self._runs.values() if run.command.worker == worker)
                del self._held[worker][request]
            case RunPrefill(worker, run) | RunDecode(worker, run):
                self._assert_serves(worker)
                self._assert_role(command)
                assert all(other.command.worker != worker for other in self._runs.values()), "two runs on a worker"
                self._runs[run] = Run(command)
            case CutDecode(_, run):
                if run in self._runs:
                    self._runs[run].cut = True
            case StartTransfer(transfer, source=source, target=target):
                self._assert_there(source)
                self._assert_there(target)
                self._assert_stays(source, target)
                if command.first_layer == 0:
                    self._held[target][command.request].layers = 0
                self._moving[transfer] = Moving(command)
            case DismissWorker(worker):
                assert self._leaving[worker]
                assert not self._held[worker]
                self._present[worker] = self._leaving[worker] = False
                self._stop_switch(worker)
            case DrainWorker() | KeepRole() | SwitchRole():
                self._change_role(command)
            case ChooseMode(request):
                assert request not in self.ends, "a choice for a request that is over"
                self.choices[command.mode] += 1
                self._modes[request] = command.mode
            case FinishRequest(request, why):
                self._end(request, why)

    def _change_role(self, command: DrainWorker | KeepRole | SwitchRole) -> None:
        worker = command.worker
        self._assert_serves(worker)
        assert not self._leaving[worker], f"worker {worker} leaves"
        assert command.reason if not isinstance(command, SwitchRole) else True
        match command:
            case DrainWorker(role=role):
                self._draining.add(worker)
                assert self._roles[worker] != role
                left = self._serving(self._roles[worker])
                roles = self.spec.policy.roles
                assert roles is not None
                least = roles.prefill_min if role == "decode" else roles.decode_min
                assert left >= (least if self._serving(role) else 1), f"{left} serve after {command}"
            case KeepRole():
                self._draining.remove(worker)
            case SwitchRole(role=role):
                self._draining.remove(worker)
                assert not self._held[worker], f"worker {worker} switches with {self._held[worker]}"
                assert all(run.command.worker != worker for run in self._runs.values())
                moving = [m.command for m in self._moving.values() if not m.done]
                assert all(worker not in (order.source, order.target) for order in moving)
                self._roles[worker] = role
                self._switching[worker] = command
                self.switched += 1

    def _serving(self, role: str) -> int:
        """Workers that have the role and are given work."""
        return sum(
            self._present[worker] and not self._leaving[worker] and WorkerId(worker) not in self._draining
            for worker, other in enumerate(self._roles)
            if other == role and WorkerId(worker) not in self._switching
        )

    def _assert_serves(self, worker: WorkerId) -> None:
        self._assert_there(worker)
        assert worker not in self._switching, f"an order to worker {worker}, which changes its role"

    def _assert_permitted(self, worker: WorkerId, request: RequestId) -> None:
        """A request gets blocks from workers of its tenant only."""
        if PlacementRule("request", "tenant") in self.spec.policy.placement_rules:
            assert dict(self.spec.workers[worker].labels)["tenant"] == self._tenants[request]

    def _assert_stays(self, source: WorkerId, target: WorkerId) -> None:
        """KV stays at its site."""
        if PlacementRule("kv", "site") in self.spec.policy.placement_rules:
            sites = [dict(self.spec.workers[worker].labels)["site"] for worker in (source, target)]
            assert sites[0] == sites[1], f"KV leaves its site: {source} to {target}"

    def _assert_role(self, command: RunPrefill | RunDecode) -> None:
        """Of prompts a decode worker computes those only of which that was said."""
        role = self._roles[command.worker]
        if isinstance(command, RunDecode):
            assert role != "prefill"
        elif role == "decode":
            assert all(self._modes.get(chunk.request) == "local" for chunk in command.chunks)

    def _assert_there(self, worker: WorkerId) -> None:
        assert self._present[worker], f"an order to worker {worker}, which is gone"

    def _end(self, request: RequestId, why: str) -> None:
        assert request not in self.ends, f"request {request} ends twice"
        self.ends[request] = why
        _, length, limit = self._wants[request]
        match why:
            case "stop":
                assert self.tokens[request] == length
            case "length":
                assert self.tokens[request] == min(limit, length) or self.tokens[request] < limit
            case "cancelled":
                assert request in self._cancelled


def named(run: Run) -> tuple[RequestId, ...]:
    """The requests that a run computes."""
    command = run.command
    if isinstance(command, RunDecode):
        return command.batch
    return (*(chunk.request for chunk in command.chunks), *command.decoding)


def random_roles(random: Random) -> RoleSpec:
    """A policy that changes its mind often."""
    threshold = ThresholdRoles(
        prefill_queue_tokens_high=random.choice((4, 12)),
        prefill_queue_tokens_low=random.choice((4, 40)),
        decode_load_permille_high=random.choice((50, 300)),
        decode_load_permille_low=random.choice((300, 1000)),
    )
    controller = ControllerRoles(
        ttft_ns=random.choice((5, 50)),
        tpot_ns=random.choice((1, 5)),
        pressure_permille=300,
        margin_permille=0,
        window_ns=40,
    )
    return RoleSpec(
        random.choice((threshold, controller)),
        interval_ns=random.choice((3, 12)),
        dwell_ns=random.choice((0, 20)),
        drain_max_ns=random.choice((None, 0, 20)),
        prefill_min=random.randint(1, 2),
        decode_min=random.randint(1, 2),
    )


def random_world(
    mode: TransferMode, seed: int, faults: float = 0.2, requests: int = 20, roles: bool = False, rules: bool = False
) -> FaultWorld:
    """A random small cluster with little memory and random requests; with ``roles``, of workers that change theirs,
    with ``rules``, of workers at two sites and of two tenants, and of requests of these tenants."""
    random = Random(seed)
    prefill, decode = random.randint(1, 3), random.randint(1, 3)
    policy = PolicySpec(
        mode,
        layers_per_group=random.choice((1, 2, 4)),
        transfer_retries_max=random.randint(0, 2),
        roles=random_roles(random) if roles else None,
    )
    spec = cluster(
        mode,
        prefill=prefill,
        decode=decode,
        kv_blocks=random.choice((6, 12, 30)),
        block_tokens=4,
        policy=policy,
        batch_requests_max=random.choice((2, 8)),
        batch_tokens_max=random.choice((8, 32)),
        link_bytes_per_s=random.choice((0, 10**12, 10**13)) if mode == "adaptive" else 0,  # beside ns of prefill
    )
    wants = [(random.randint(1, 16), random.randint(1, 12), random.choice((3, 8, 100))) for _ in range(requests)]
    return FaultWorld(with_rules(spec, random) if rules else spec, wants, random, faults)


def with_rules(spec: ClusterSpec, random: Random) -> ClusterSpec:
    """The same cluster with random labels, KV that stays at its site and perhaps requests that stay with their
    tenant. Some requests may have no worker left."""
    workers = [
        msgspec.structs.replace(
            worker, labels=(("site", random.choice("ab")), ("tenant", random.choice(("x", "x", "y"))))
        )
        for worker in spec.workers
    ]
    within = (PlacementRule("kv", "site"), PlacementRule("request", "tenant"))
    policy = msgspec.structs.replace(spec.policy, placement_rules=random.choice((within[:1], within[1:], within)))
    return ClusterSpec(spec.kv, tuple(workers), policy)
