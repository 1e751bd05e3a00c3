"""The turn of the workers: each on which something changed plans what it does next, until nothing changes any more.

It must not know events: what changed has been worked out before.
"""

from kvsim.core.adaptive import ModeChooser
from kvsim.core.cluster import PolicySpec
from kvsim.core.decode_engine import DecodeEngine
from kvsim.core.fleet import Fleet
from kvsim.core.messages import WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.prefill_engine import PrefillEngine
from kvsim.core.request_life import RequestLife
from kvsim.core.role_control import RoleControl


class WorkerTurns:
    """Lets engines plan and tells requests what came of it. ``chooser`` and ``roles`` watch who computes prompts."""

    def __init__(
        self,
        policy: PolicySpec,
        fleet: Fleet,
        life: RequestLife,
        out: Outbox,
        chooser: ModeChooser | None,
        roles: RoleControl | None,
    ) -> None:
        self._streams = policy.transfer_mode == "streamed"
        self._fleet = fleet
        self._life = life
        self._out = out
        self._chooser = chooser
        self._roles = roles

    def settle(self, now_ns: int) -> None:
        """Let every touched worker plan, until nothing changes any more."""
        while (worker := self._fleet.next_touched()) is not None:
            if (decode := self._fleet.decode.get(worker)) is not None:
                self._plan_decode(worker, decode)
            elif (prefill := self._fleet.prefill.get(worker)) is not None:
                self._plan_prefill(worker, prefill, now_ns)
            else:
                for state in self._fleet.colocated[worker].plan(self._out):
                    self._life.finish(state, "cancelled")

    def _plan_decode(self, worker: WorkerId, engine: DecodeEngine) -> None:
        admitted, preempted, cancelled = engine.plan(self._out)
        if self._chooser is not None and engine.local.run is not None:
            self._chooser.run_begins(worker, engine.local.run, engine.local.run_tokens)
        for state in preempted:  # each goes before all others, so the one that joined first ends up first
            self._life.preempted(state)
        for state in admitted:
            self._life.admitted(state)
        for state in cancelled:
            self._life.finish(state, "cancelled")

    def _plan_prefill(self, worker: WorkerId, engine: PrefillEngine, now_ns: int) -> None:
        started = engine.plan(self._out)
        if self._roles is not None and started:
            self._roles.gauge.prefill_began(worker, now_ns)
        if self._chooser is not None and started and engine.run is not None:
            self._chooser.run_begins(worker, engine.run, sum([state.context_tokens for state in started]))
        for state in started:
            if self._streams and state.decode_worker is None:
                self._life.request_memory(state)
            else:
                self._life.computes(state, layers=0)
