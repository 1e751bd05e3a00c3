"""``run_chaos``: a small random model on four real workers of this machine, round after round of trouble.

What ``kvsim chaos`` prints is made here as plain rows. Every wait has a limit, so a round ends or fails.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from backends.chaos.conduct import Conductor, Trouble
from backends.chaos.mishaps import FATAL, KINDS, Kind, draw_mishaps
from backends.chaos.scene import Scene
from backends.chaos.watch import TroubleWatch
from backends.driver.requests import Submission
from backends.driver.service import ServiceLimits
from backends.worker.model_source import ModelSource
from backends.worker.settings import WorkerSettings
from kvsim.core.cluster import ClusterSpec, PolicySpec, Role, TransferMode, WorkerSpec
from kvsim.core.messages import WorkerId

MODEL = ModelSource("tiny")
BLOCK_TOKENS = 16
CRASH_NOTICED_NS = 100_000_000
LATE_AFTER_NS = 1_500_000_000
BEAT_NS = 200_000_000
LEASE_NS = 600_000_000
"""Three beats, and well below what a silent worker is given."""
LEASED_MODES: tuple[TransferMode, ...] = ("pull", "streamed")
"""Those in which another worker than the one that holds the KV moves it: else a holder that stops is merely slow."""
RECOVERY_NS = 1_000_000_000
"""What a recovery may take beside its prefill."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Durations of one kind against what is aimed at, in ns."""

    what: str
    durations_ns: tuple[int, ...]
    aim_ns: int

    @property
    def median_ns(self) -> int:
        """The median; there is at least one."""
        return round(median(self.durations_ns))

    @property
    def within(self) -> int:
        """How many were as fast as is aimed at."""
        return sum(duration <= self.aim_ns for duration in self.durations_ns)


def chaos_cluster(mode: TransferMode, kv_blocks: int = 512) -> ClusterSpec:
    """Two prefill and two decode workers, or four colocated ones, with room for everybody on any of them."""
    roles: tuple[Role, ...] = ("prefill", "prefill", "decode", "decode")
    workers = tuple(
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role}-{index % 2}" if mode != "colocated" else f"worker-{index}",
            role="colocated" if mode == "colocated" else role,
            tensor_parallel=1,
            kv_blocks=kv_blocks,
            batch_requests_max=32,
            batch_tokens_max=512,
        )
        for index, role in enumerate(roles)
    )
    return ClusterSpec(MODEL.kv_spec(BLOCK_TOKENS), workers, PolicySpec(mode, layers_per_group=2, kv_lease_ns=LEASE_NS))


def chaos_load(requests: int, output_tokens: int) -> list[Submission]:
    """Requests of 20 to 170 prompt tokens that go on long enough for every mishap to strike."""
    vocabulary = MODEL.config().vocabulary
    return [
        Submission(
            tuple((31 * request + 7 * place * place + 3) % vocabulary for place in range(20 + 60 * request % 150)),
            output_tokens,
        )
        for request in range(requests)
    ]


def run_chaos(
    mode: TransferMode,
    transport: str = "tcp",
    *,
    rounds: int = 1,
    seed: int = 0,
    kinds: tuple[Kind, ...] = tuple(KINDS),
    requests: int = 10,
    output_tokens: int = 120,
    say: Callable[[str], None] = lambda _: None,
) -> Trouble:
    """Serve ``requests`` in each of ``rounds``, with one mishap of each of ``kinds``. Raises AssertionError where
    something does not come to an end, ServiceError where the workers cannot be started."""
    watch = TroubleWatch()
    limits = ServiceLimits(late_after_ns=LATE_AFTER_NS, heartbeat_interval_ns=BEAT_NS)
    settings = WorkerSettings(chaos_cluster(mode), MODEL, transport)
    impossible: tuple[Kind, ...] = () if transport == "tcp" else ("half_write", "drop", "lease")
    impossible += () if mode in LEASED_MODES else ("lease",)
    chosen = tuple(kind for kind in kinds if kind not in impossible)
    with Scene(settings, (watch.observe,), limits) as scene:
        conductor = Conductor(scene, watch, chaos_load(requests, output_tokens), say)
        conductor.calm_round()
        for number in range(rounds):
            conductor.troubled_round(number, draw_mishaps(seed, number, len(chosen), chosen))
        scene.service.close()
        scene.service.driver.scheduler.check()
    return conductor.trouble


def measured(trouble: Trouble) -> list[Measured]:
    """Detection by kind of blow, and recovery beside the prefill that it needed."""
    aims: dict[Kind, int] = dict.fromkeys(FATAL, CRASH_NOTICED_NS)
    aims |= {"hang": LATE_AFTER_NS + BEAT_NS, "lease": LEASE_NS + BEAT_NS}
    found = [
        Measured(f"{KINDS[kind]}: noticed", tuple(durations), aim_ns)
        for kind, aim_ns in aims.items()
        if (durations := trouble.detections_ns(kind))
    ]
    beside = tuple(one.recovery_ns - one.prefill_ns for one in trouble.recovered)
    if beside:
        found.append(Measured("next token of a request that was hit, beside its new prefill", beside, RECOVERY_NS))
    return found
