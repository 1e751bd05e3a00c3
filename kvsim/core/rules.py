"""Placement rules: who may serve a request, and between whom its KV may move.

Workers and requests carry labels (site, tenant, trust). A rule of kind ``kv`` keeps KV among workers with the same
value of a label; one of kind ``request`` keeps a request on workers that have its own value of it. A label that is not
there is a value of its own: a request without a tenant is served only by workers without one.

This module must not know loads: it says what may be, not what is best.
"""

from collections.abc import Iterable

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Labels, Request, WorkerId

Values = tuple[str | None, ...]


class Rules:
    """The rules of a cluster. Nothing of it changes during a run."""

    def __init__(self, cluster: ClusterSpec) -> None:
        rules = cluster.policy.placement_rules
        kv_labels = [rule.label for rule in rules if rule.kind == "kv"]
        self._request_labels = [rule.label for rule in rules if rule.kind == "request"]
        self._zones = [_values(worker.labels, kv_labels) for worker in cluster.workers]
        self._owners = [_values(worker.labels, self._request_labels) for worker in cluster.workers]
        self._served: dict[Labels, Values] = {}

    def may_serve(self, request: Request, worker: WorkerId) -> bool:
        """Whether the request may be computed, and its KV be kept, there."""
        if not self._request_labels:
            return True
        wanted = self._served.get(request.labels)
        if wanted is None:
            wanted = self._served[request.labels] = _values(request.labels, self._request_labels)
        return wanted == self._owners[worker]

    def may_move(self, source: WorkerId, target: WorkerId) -> bool:
        """Whether KV may move from the one to the other."""
        return self._zones[source] == self._zones[target]

    def has_partner(self, request: Request, worker: WorkerId, partners: Iterable[WorkerId]) -> bool:
        """Whether there is one of ``partners`` that may serve the request and exchange KV with the worker."""
        return any(self.may_move(worker, partner) and self.may_serve(request, partner) for partner in partners)


def _values(labels: Labels, names: list[str]) -> Values:
    given = dict(labels)
    return tuple([given.get(name) for name in names])
