"""The scheduler: everything that happened at one instant in, commands out.

``Scheduler.handle`` only dispatches; one method per event says what it means for a request, and the engines (one a
worker) say what a worker does next. Read ``messages`` first, then this file from top to bottom.

It reads no clock, draws no random number and does no I/O. The same events give the same commands, byte for byte.
"""

from collections.abc import Callable, Iterable, Sequence

from kvsim.core.adaptive import ModeChooser
from kvsim.core.cluster import ClusterSpec
from kvsim.core.event_order import event_key
from kvsim.core.fleet import Fleet
from kvsim.core.handover import HandOver
from kvsim.core.ladder import Ladder
from kvsim.core.links import LinkLoads
from kvsim.core.messages import (
    Command,
    DeadlineReached,
    DecodeAdvanced,
    Event,
    FinishReason,
    LayersReady,
    LeasesRenewed,
    PrefillDone,
    Record,
    RequestArrived,
    RequestCancelled,
    RoleSwitched,
    TransferDone,
    TransferFailed,
    TransferReleased,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from kvsim.core.outbox import Outbox
from kvsim.core.recovery import Recovery
from kvsim.core.request import Phase, RequestState
from kvsim.core.request_life import RequestLife
from kvsim.core.role_control import RoleControl
from kvsim.core.rules import Rules
from kvsim.core.turns import WorkerTurns

Ended = tuple[list[RequestState], list[RequestState]]


class Scheduler:
    """Owns the state of every request and worker. Single-threaded, never suspends.

    ``deadline_ns`` is the instant at which it wants to be called at the latest (with ``DeadlineReached`` or anything
    else).
    """

    def __init__(self, cluster: ClusterSpec) -> None:
        self._layers = cluster.kv.layers
        self._now_ns = 0
        self._out = Outbox()
        adapts = cluster.policy.transfer_mode == "adaptive"
        links = LinkLoads(cluster) if adapts or cluster.policy.decode_placement == "link_aware" else None
        self._links = links
        self._fleet = Fleet(cluster, links)
        self._handover = HandOver(cluster, links)
        self._chooser = ModeChooser(cluster, self._fleet, links, self._out) if adapts and links is not None else None
        self._life = RequestLife(cluster, self._fleet, self._handover, self._out, self._chooser)
        self._ladder = Ladder(cluster.policy, self._fleet, self._handover, self._life, self._out)
        self._recovery = Recovery(self._fleet, self._handover, self._life, self._out)
        roles = cluster.policy.roles
        self._roles: RoleControl | None = None
        if roles is not None:
            self._roles = RoleControl(cluster, roles, self._fleet, self._handover, self._life, self._out)
        self._turns = WorkerTurns(cluster.policy, self._fleet, self._life, self._out, self._chooser, self._roles)
        self._on: dict[type, Callable[..., None]] = {
            RequestArrived: self._on_request_arrived,
            RequestCancelled: self._on_request_cancelled,
            LayersReady: self._on_layers_ready,
            PrefillDone: self._on_prefill_done,
            DecodeAdvanced: self._on_decode_advanced,
            TransferDone: self._on_transfer_done,
            TransferReleased: self._on_transfer_released,
            TransferFailed: self._on_transfer_failed,
            LeasesRenewed: self._on_leases_renewed,
            WorkerJoined: self._on_worker_joined,
            WorkerLeaving: self._on_worker_leaving,
            WorkerLost: self._on_worker_lost,
            RoleSwitched: self._on_role_switched,
            DeadlineReached: self._on_deadline_reached,
        }

    @classmethod
    def restore(cls, cluster: ClusterSpec, records: Iterable[Record]) -> "Scheduler":
        """The scheduler that was called as ``records`` say, in the state in which the last of them left it. What has
        happened since then is to be told to it as to the one in whose place it comes."""
        scheduler = cls(cluster)
        for record in records:
            commands = tuple(scheduler.handle(record.now_ns, record.events))
            assert commands == record.commands, f"at {record.now_ns} ns: {commands}, recorded {record.commands}"
        return scheduler

    # --- the contract -------------------------------------------------------------------------------------------------

    def handle(self, now_ns: int, events: Sequence[Event]) -> list[Command]:
        """Take in everything that happened at ``now_ns``; return what is to be done."""
        assert now_ns >= self._now_ns, f"time runs backwards: {now_ns} after {self._now_ns}"
        self._now_ns = now_ns
        if self._chooser is not None:
            self._chooser.now_ns = now_ns
        self._life.leases.begin(now_ns)
        if len(events) == 1:
            event = events[0]
            self._on[type(event)](event)
        else:
            ordered = sorted(events, key=event_key)
            advanced = sum([type(event) is DecodeAdvanced for event in ordered])
            for index, event in enumerate(ordered):
                if index == advanced:
                    self._turns.settle(now_ns)  # see EVENT_ORDER in event_order
                self._on[type(event)](event)
        for state in self._life.waits.expire(now_ns):
            self._life.give_up(state, "timeout")
        for request in self._life.leases.expire():
            self._ladder.lease_over(request)
        if self._roles is not None:
            self._roles.decide(now_ns)
        self._turns.settle(now_ns)
        self._recovery.dismiss_idle()
        if self._roles is not None:
            self._roles.switch_drained()
        return self._out.take()

    @property
    def deadline_ns(self) -> int | None:
        """When a request has waited too long, a lease is over or roles are considered; None if nothing is due."""
        first_ns = self._life.waits.deadline_ns
        lease_ns = self._life.leases.deadline_ns
        if lease_ns is not None and (first_ns is None or lease_ns < first_ns):
            first_ns = lease_ns
        if self._roles is not None:
            roles_ns = self._roles.deadline_ns
            if roles_ns is not None and (first_ns is None or roles_ns < first_ns):
                first_ns = roles_ns
        return first_ns

    @property
    def requests_live(self) -> int:
        """Requests that the scheduler still remembers."""
        return len(self._life.states)

    def check(self) -> None:
        """Assert the conservation laws of every worker and, when nothing is left to do, that nothing is left over."""
        self._handover.check()
        assert self._life.states or self._links is None or self._links.idle, "links carry KV of no request"
        if self._fleet.rules is not None:
            self._check_rules(self._fleet.rules)
        for engine in self._fleet.engines():
            engine.check()
            if not self._life.states:
                used = engine.pool.blocks_total - engine.pool.blocks_free
                assert used == 0, f"worker {engine.spec.id} holds {used} blocks of no request"
                assert engine.tokens_outstanding == 0, f"worker {engine.spec.id}: {engine.tokens_outstanding} tokens"

    def _check_rules(self, rules: Rules) -> None:
        """Assert that no request holds blocks, and no KV moves, where rules forbid it."""
        for state in self._life.states.values():
            for engine in self._fleet.engines():
                permitted = rules.may_serve(state.request, engine.spec.id) or not engine.pool.holds(state.id)
                assert permitted, f"request {state.id} has blocks on worker {engine.spec.id}"
        for source, target in self._handover.ends():
            assert rules.may_move(source, target), f"KV moves from worker {source} to {target}"

    # --- one method per event: the client -----------------------------------------------------------------------------

    def _on_request_arrived(self, event: RequestArrived) -> None:
        if self._roles is not None:
            self._roles.arrived(event.request.prompt_tokens, self._now_ns)
        self._life.arrive(event.request, self._now_ns)

    def _on_request_cancelled(self, event: RequestCancelled) -> None:
        self._life.cancel(event.request)

    # --- the workers' runs --------------------------------------------------------------------------------------------

    def _on_layers_ready(self, event: LayersReady) -> None:
        engine = self._fleet.prefill.get(event.worker)
        for state in () if engine is None else engine.running(event.run):  # it may have changed its role since
            state.layers_ready = max(state.layers_ready, event.layers)
            self._life.computes(state, event.layers)
            if not state.cancelled:
                self._life.start_transfer(state)

    def _on_prefill_done(self, event: PrefillDone) -> None:
        worker = event.worker
        if self._chooser is not None:
            self._chooser.run_ends(worker, event.run)
        if (colocated := self._fleet.colocated.get(worker)) is not None:
            self._end_all(colocated.finish_step(event))
        elif (decode := self._fleet.decode.get(worker)) is not None:
            self._end_all(decode.finish_step(event))
        elif (engine := self._fleet.prefill.get(worker)) is not None:
            states = engine.finish_run(event.run)
            if self._roles is not None and states:
                tokens = sum([state.context_tokens for state in states])
                self._roles.gauge.prefill_ended(worker, tokens, self._now_ns)
            for state in states:
                if not state.generated:
                    state.first_token_ns = self._now_ns
                state.generated += 1
                state.layers_ready = self._layers
                if state.id in event.finished:
                    self._life.finish(state, "stop")
                elif state.generated == state.generated_max:
                    self._life.finish(state, "length")
                elif state.cancelled:
                    self._life.finish(state, "cancelled")
                else:
                    self._life.hand_over(state)
        self._fleet.touch(worker)

    def _on_decode_advanced(self, event: DecodeAdvanced) -> None:
        worker = event.worker
        if (engine := self._fleet.decode.get(worker)) is not None:
            self._end_all(engine.advance(event))
        elif (colocated := self._fleet.colocated.get(worker)) is not None:
            self._end_all(colocated.advance(event))
        if event.ended:
            self._fleet.touch(worker)

    def _end_all(self, ended: Ended | None) -> None:
        """End the requests that stopped and those that reached their limit."""
        if ended is None:
            return
        stopped, limited = ended
        for state in stopped:
            self._end(state, "stop")
        for state in limited:
            self._end(state, "length")

    def _end(self, state: RequestState, why: FinishReason) -> None:
        if self._fleet.colocated:
            self._fleet.colocated[state.prefill_side()].release(state, self._out)
        else:
            self._fleet.decode[state.decode_side()].release(state, self._out)
            if self._roles is not None and state.first_token_ns:  # else computed where it decoded: as slow as prefills
                self._roles.gauge.output_ended(state.generated, self._now_ns - state.first_token_ns)
        self._life.finish(state, why)

    # --- transfers ----------------------------------------------------------------------------------------------------

    def _on_transfer_done(self, event: TransferDone) -> None:
        state, fresh = self._handover.arrived(event.transfer, event.generation)
        if state is None:
            return
        if fresh:
            state.transfer_failures = 0
        if state.phase is Phase.FINISHED:
            self._life.forget_if_quiet(state)
        elif not fresh or not (state.layers_arrived == self._layers or self._life.has_source(state)):
            self._ladder.transfer_failed(state)
        elif state.layers_arrived == self._layers:
            state.climb_down()
            if not self._life.has_source(state):
                self._life.leases.drop(state.id)
            state.enter(Phase.WAITING_DECODE)
            self._fleet.decode[state.decode_side()].make_ready(state)
            self._fleet.touch(state.decode_side())
        elif not state.cancelled:
            self._life.start_transfer(state)

    def _on_transfer_released(self, event: TransferReleased) -> None:
        state = self._handover.released(event.transfer)
        if state is not None:
            self._life.source_released(state)

    def _on_transfer_failed(self, event: TransferFailed) -> None:
        state, to_move_again = self._handover.failed(event.transfer)
        if state is None:
            return
        if to_move_again and state.phase is not Phase.FINISHED:
            self._ladder.transfer_failed(state)
        else:
            self._life.source_released(state)

    def _on_leases_renewed(self, event: LeasesRenewed) -> None:
        carried = [self._handover.carried_by(transfer) for transfer in event.transfers]
        decode = self._fleet.decode.get(event.worker)
        waiting = () if decode is None else decode.waiting()
        for state in (*[state for state in carried if state is not None], *waiting):
            self._life.leases.renew(state.id)

    # --- workers come and go ------------------------------------------------------------------------------------------

    def _on_worker_joined(self, event: WorkerJoined) -> None:
        self._recovery.joined(event.worker)

    def _on_worker_leaving(self, event: WorkerLeaving) -> None:
        self._recovery.leaving(event.worker)

    def _on_worker_lost(self, event: WorkerLost) -> None:
        if self._chooser is not None:
            self._chooser.forget(event.worker)
        self._recovery.lost(event.worker)

    def _on_role_switched(self, event: RoleSwitched) -> None:
        if self._roles is not None:
            self._roles.switched(event.worker, event.switch, self._now_ns)

    def _on_deadline_reached(self, event: DeadlineReached) -> None:
        """Nothing beyond what every call does: waits expire, workers are planned."""
