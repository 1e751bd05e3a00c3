"""Who is there in a fuzzed cluster, and in which role: joining, leaving, losing and changing roles, and what must hold.

It must not know requests, blocks or transfers.
"""

from kvsim.core.cluster import ClusterSpec, Role
from kvsim.core.messages import DrainWorker, KeepRole, SwitchRole, WorkerId


class Attendance:
    """``switched`` counts changes of role. A worker in ``switching`` has been told to change and has not said that it
    has."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.present = [worker.present for worker in spec.workers]
        self.roles: list[Role] = [worker.role for worker in spec.workers]
        self.switching: dict[WorkerId, SwitchRole] = {}
        self.switched = 0
        self._policy = spec.policy.roles
        self._leaving = [False] * len(spec.workers)
        self._draining: set[WorkerId] = set()
        self._capacity_tokens = [spec.capacity_tokens(worker.id) for worker in spec.workers]

    def there(self) -> list[WorkerId]:
        """Every worker that is there, by id."""
        return [WorkerId(worker) for worker, there in enumerate(self.present) if there]

    def away(self) -> list[WorkerId]:
        """Every worker that is not there, by id."""
        return [WorkerId(worker) for worker, there in enumerate(self.present) if not there]

    def leave(self, worker: WorkerId) -> None:
        """The worker is told to finish what it has and go."""
        self._leaving[worker] = True
        self._draining.discard(worker)

    def lose(self, worker: WorkerId) -> SwitchRole | None:
        """The worker is gone. Returns the change of role that it will never report."""
        self.present[worker] = self._leaving[worker] = False
        self._draining.discard(worker)
        return self.switching.pop(worker, None)

    def dismiss(self, worker: WorkerId) -> SwitchRole | None:
        """A worker that was to leave may go."""
        assert self._leaving[worker], f"worker {worker} is dismissed and was not leaving"
        return self.lose(worker)

    def assert_there(self, worker: WorkerId) -> None:
        """It can be ordered something."""
        assert self.present[worker], f"an order to worker {worker}, which is gone"

    def assert_serves(self, worker: WorkerId, *roles: Role) -> None:
        """It can be ordered work of one of these roles; of any if none is named."""
        self.assert_there(worker)
        assert worker not in self.switching, f"an order to worker {worker}, which changes its role"
        assert not roles or self.roles[worker] in roles, f"a {self.roles[worker]} worker is to do {roles}"

    def change(self, command: DrainWorker | KeepRole | SwitchRole, context_tokens_max: int) -> None:
        """A step of a change of role, while nobody's context is longer than ``context_tokens_max``."""
        worker = command.worker
        self.assert_serves(worker)
        assert not self._leaving[worker], f"{command}, and it leaves"
        assert isinstance(command, SwitchRole) or command.reason, f"{command} without a reason"
        match command:
            case DrainWorker(role=role):
                self._draining.add(worker)
                assert self.roles[worker] != role, f"{command}, which it has"
                left, policy = len(self._serving(self.roles[worker])), self._policy
                assert policy is not None, f"{command} without a policy"
                least = policy.prefill_min if role == "decode" else policy.decode_min
                least = least if self._suffices(role, context_tokens_max) else 1
                assert left >= least, f"{left} serve after {command}"
            case KeepRole():
                self._draining.remove(worker)
            case SwitchRole(role=role):
                self._draining.remove(worker)
                self.roles[worker] = role
                self.switching[worker] = command
                self.switched += 1

    def _suffices(self, role: Role, context_tokens: int) -> bool:
        """Whether somebody has the role who is large enough for this context. If not, the other role may give up a
        worker below its least number."""
        return any(self._capacity_tokens[worker] > context_tokens for worker in self._serving(role))

    def _serving(self, role: Role) -> list[WorkerId]:
        """Workers that have the role and are given work."""
        return [
            worker
            for worker in self.there()
            if self.roles[worker] == role
            and not self._leaving[worker]
            and worker not in self._draining
            and worker not in self.switching
        ]
