"""Transfer mode ``adaptive``: how each request is served, decided when there is most to know and least to regret.

Twice in a pass something is decided. When the request is to queue for its prefill: whether a decode worker computes
the prompt itself (``local``). And from the start of its prefill run on, at every group of layers: whether it asks for
decode memory now. Memory is asked for at once where there is plenty (``push``: the prefill worker writes as it
computes), else no earlier than the rest of the prefill just hides the transfer (``streamed``), and after the prefill at
the latest (``pull``). Over a shared link the prefill worker always writes: a READ waits for a round trip, and only so
many may be in flight, so a long way bounds their rate and not that of WRITEs.

Nobody holds decode memory while waiting for memory on the prefill side: those that compute locally wait for computation
only, and all others ask for decode memory when they have their source blocks. So no two can wait for each other.

Only what a real scheduler knows is used: rated link speeds, what it has ordered itself, and how long that took. It must
not depend on how far a decode run in progress has come, which differs between fused and single steps.
"""

from kvsim.core.cluster import ClusterSpec, PolicySpec
from kvsim.core.fleet import Candidates, Fleet
from kvsim.core.links import LinkLoads
from kvsim.core.messages import ChooseMode, ModeReason, RunId, ServingMode, WorkerId
from kvsim.core.observed import WINDOW_OUTPUT_TOKENS, WINDOW_TOKENS, OutputLengths, Pace
from kvsim.core.outbox import Outbox
from kvsim.core.placement import LOAD_SCALE
from kvsim.core.request import RequestState

PLENTY = LOAD_SCALE * 3 // 4
"""Up to this share of a pool memory is plenty: what a request holds early nobody else is about to miss."""


def mode_of(policy: PolicySpec) -> ServingMode:
    """How a request is served unless something else is chosen for it."""
    mode = policy.transfer_mode
    if mode == "adaptive":
        return "pull"
    return "local" if mode == "colocated" else mode


class ModeChooser:
    """``now_ns`` is the instant of the call in progress."""

    def __init__(self, cluster: ClusterSpec, fleet: Fleet, links: LinkLoads, out: Outbox) -> None:
        self.now_ns = 0
        self._outputs = OutputLengths()
        self._fleet = fleet
        self._links = links
        self._out = out
        self._layers = cluster.kv.layers
        self._group = min(cluster.policy.layers_per_group, cluster.kv.layers)
        self._recomputes_max = cluster.policy.transfer_recomputes_max
        self._bytes_per_token = cluster.kv.bytes_per_token
        self._speeds = [Pace(WINDOW_TOKENS) for _ in cluster.workers]
        self._speed_of_all = Pace(WINDOW_TOKENS)
        self._decodes = [Pace(WINDOW_OUTPUT_TOKENS) for _ in cluster.workers]
        fleet.prefill_costs = self._prefill_costs
        fleet.decode_ns = self._decode_ns
        self._runs: dict[WorkerId, tuple[RunId, int, int]] = {}  # start and tokens of the run in progress

    # --- what is observed ---------------------------------------------------------------------------------------------

    def run_begins(self, worker: WorkerId, run: RunId, tokens: int) -> None:
        """A worker begins to compute prompts. Saying so again for the same run changes nothing."""
        known = self._runs.get(worker)
        if known is None or known[0] != run:
            self._runs[worker] = run, self.now_ns, tokens

    def run_ends(self, worker: WorkerId, run: RunId) -> None:
        """The run is over: now it is known how long it took."""
        known = self._runs.get(worker)
        if known is not None and known[0] == run:
            _, start_ns, tokens = self._runs.pop(worker)
            self._speeds[worker].note(tokens, self.now_ns - start_ns)
            if worker in self._fleet.prefill:
                self._speed_of_all.note(tokens, self.now_ns - start_ns)

    def ended(self, state: RequestState) -> None:
        """A request has had its last token. What it waited for between two counts as well: it is what comes of being
        decoded there."""
        if state.generated:
            self._outputs.note(state.generated)
        undisturbed = state.mode != "local" and not state.preemptions and not state.restarts
        if undisturbed and state.decode_worker is not None and state.generated > 1:
            self._decodes[state.decode_worker].note(state.generated - 1, self.now_ns - state.first_token_ns)

    def forget(self, worker: WorkerId) -> None:
        """The worker is gone; whatever takes its place may be faster or slower."""
        self._runs.pop(worker, None)
        self._speeds[worker] = Pace(WINDOW_TOKENS)
        self._decodes[worker] = Pace(WINDOW_OUTPUT_TOKENS)

    # --- where a prompt is computed -----------------------------------------------------------------------------------

    def local_worker(self, state: RequestState) -> WorkerId | None:
        """The decode worker that is to compute the prompt itself, chosen and put on record; None: a prefill worker is.

        Computing it there costs the request the wait for prompts before it and its own time, and everybody in the batch
        its own time as well. A prefill worker costs it the queue, the prefill and what that does not hide of the
        transfer. To either comes what the output takes there.
        """
        state.mode = "pull"
        tokens = state.context_tokens
        source = self._fleet.find_prefill(state)
        candidates = [self._local_cost(worker, tokens) for _, worker in self._fleet.decode_candidates(state)]
        if not candidates:
            return None
        cost_ns, share, worker = min(candidates)
        if source is None:
            return self._choose(state, worker, "local", "no_prefill_worker", (0, cost_ns, 0, share))
        if state.transfer_recomputes > self._recomputes_max:  # the last rung of the ladder
            return self._choose(state, worker, "local", "transfers_fail", (0, cost_ns, 0, share))
        queue_ns, prefill_ns = self._queue_ns(source), self._prefill_ns(source, tokens)
        target = self._fleet.find_decode(state, source)
        transfer_ns = decode_ns = 0
        if target is not None:
            transfer_ns, decode_ns = self._transfer_ns(source, target, tokens), self._decode_ns(target)
        exposed_ns = max(transfer_ns - prefill_ns, transfer_ns * self._group // self._layers)
        sooner = self._speed_of_all.known and cost_ns < queue_ns + prefill_ns + exposed_ns + decode_ns
        if share > LOAD_SCALE or not sooner:
            return None
        return self._choose(state, worker, "local", "local_sooner", (queue_ns, prefill_ns, transfer_ns, share))

    def _local_cost(self, worker: WorkerId, tokens: int) -> tuple[int, int, WorkerId]:
        engine = self._fleet.decode[worker]
        own_ns = self._prefill_ns(worker, tokens)
        cost_ns = self._prefill_ns(worker, engine.local.tokens_left) + own_ns * (1 + len(engine.batch))
        share = LOAD_SCALE + 1 if engine.waits_for_memory else self._memory_share(worker, tokens)
        return cost_ns + self._decode_ns(worker), share, worker

    # --- when decode memory is asked for ------------------------------------------------------------------------------

    def asks_now(self, state: RequestState, layers: int) -> bool:
        """Whether a request that is being computed asks for decode memory now that ``layers`` layers of it are ready;
        if so its mode is chosen and put on record."""
        if state.mode != "pull":
            return False  # has asked already
        figures = self._figures(state, layers)
        if figures is None:
            return False
        worker, left_ns, prefill_ns, transfer_ns, share = figures
        numbers = left_ns, prefill_ns, transfer_ns, share
        if share <= PLENTY and not self._fleet.decode[worker].waits_for_memory:
            self._choose(state, worker, self._reader(state, worker) if layers else "push", "memory_free", numbers)
            return True
        if left_ns <= transfer_ns:
            self._choose(state, worker, self._reader(state, worker), "just_in_time", numbers)
            return True
        return False

    def asks_at_last(self, state: RequestState) -> None:
        """The prefill is over and the request has not asked before: put that on record."""
        figures = self._figures(state, self._layers)
        if state.mode == "pull" and figures is not None:
            worker, *numbers = figures
            mode: ServingMode = "push" if self._links.is_far(state.prefill_side(), worker) else "pull"
            self._choose(state, worker, mode, "memory_scarce", (numbers[0], numbers[1], numbers[2], numbers[3]))

    def _figures(self, state: RequestState, layers: int) -> tuple[WorkerId, int, int, int, int] | None:
        """The decode worker that would be chosen; what is left of the run, how long it takes in all, how long all that
        it computes takes to move, and how full the worker's memory would be. None without a decode worker."""
        source, tokens = state.prefill_side(), state.context_tokens
        worker = self._fleet.find_decode(state, source)
        if worker is None:
            return None
        known = self._runs.get(source)
        start_ns, run_tokens = (known[1], known[2]) if known is not None else (self.now_ns, tokens)
        elapsed_ns, prefill_ns = self.now_ns - start_ns, self._prefill_ns(source, run_tokens)
        left_ns = elapsed_ns * (self._layers - layers) // layers if layers else prefill_ns
        transfer_ns = self._transfer_ns(source, worker, run_tokens)
        return worker, left_ns, prefill_ns, transfer_ns, self._memory_share(worker, tokens)

    def _reader(self, state: RequestState, worker: WorkerId) -> ServingMode:
        """The mode of a request that asks during its prefill."""
        return "push" if self._links.is_far(state.prefill_side(), worker) else "streamed"

    # --- estimates ----------------------------------------------------------------------------------------------------

    def _choose(
        self,
        state: RequestState,
        worker: WorkerId,
        mode: ServingMode,
        why: ModeReason,
        figures: tuple[int, int, int, int],
    ) -> WorkerId:
        state.mode = mode
        self._out.put(ChooseMode(state.id, mode, why, *figures))
        return worker

    def _prefill_ns(self, worker: WorkerId, tokens: int) -> int:
        speed = self._speeds[worker]
        return (speed if speed.known else self._speed_of_all).duration_ns(tokens)

    def _prefill_costs(self, state: RequestState, candidates: Candidates) -> Candidates:
        """Prefill workers, given behind the tokens that they have to compute, behind the time that a request takes from
        now to its end if it goes there: queue and prefill, then the best that may come behind: hand-over and output."""
        if not self._speed_of_all.known:
            return candidates
        window_ns = [max(1, self._prefill_ns(worker, WINDOW_TOKENS)) for _, worker in candidates]
        fastest_ns = min(window_ns)
        costs = []
        for (tokens, worker), own_ns in zip(candidates, window_ns, strict=True):
            # in halves of the fastest: equal workers, which differ by the prompts that they happened to get, are equal
            halves = (4 * own_ns + fastest_ns) // (2 * fastest_ns)
            prefill_ns = (tokens + state.context_tokens) * halves * fastest_ns // (2 * WINDOW_TOKENS)
            costs.append((prefill_ns + self._onward_ns(state, worker), worker))
        return costs

    def _onward_ns(self, state: RequestState, source: WorkerId) -> int:
        """The least time for hand-over and output that a decode worker offers to KV from ``source``."""
        rules = self._fleet.rules
        return min(
            [
                self._transfer_ns(source, worker, state.context_tokens) + self._decode_ns(worker)
                for _, worker in self._fleet.decode_candidates(state)
                if rules is None or rules.may_move(source, worker)
            ],
            default=0,
        )

    def _decode_ns(self, worker: WorkerId) -> int:
        """How long an output of mean length takes there; where nobody knows, as long as where it is fastest."""
        tokens, paces = self._outputs.mean_tokens, self._decodes
        if paces[worker].known:
            return paces[worker].duration_ns(tokens)
        return min([pace.duration_ns(tokens) for pace in paces if pace.known], default=0)

    def _queue_ns(self, worker: WorkerId) -> int:
        """What this prefill worker has still to compute."""
        known = self._runs.get(worker)
        elapsed_ns = self.now_ns - known[1] if known is not None else 0
        return max(0, self._prefill_ns(worker, self._fleet.prefill[worker].tokens_outstanding) - elapsed_ns)

    def _transfer_ns(self, source: WorkerId, target: WorkerId, tokens: int) -> int:
        return self._links.transfer_ns(source, target, tokens * self._bytes_per_token)

    def _memory_share(self, worker: WorkerId, tokens: int) -> int:
        """The share of a worker's memory that is spoken for with this request, in millionths: contexts as they were
        placed, and half an output more for each, which is what requests midway have grown by on average."""
        engine = self._fleet.decode[worker]
        growth_tokens = (engine.requests_placed + 1) * self._outputs.mean_tokens // 2
        spoken_for = engine.tokens_outstanding + tokens + growth_tokens
        return spoken_for * LOAD_SCALE // self._fleet.capacity_tokens(worker)
