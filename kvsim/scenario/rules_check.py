"""Placement rules against workers and requests: whether they leave somebody to serve each request, and a partner to
each worker. Turns both into what the scheduler goes by. It must not know YAML.
"""

from kvsim.core.cluster import PlacementRule
from kvsim.scenario.merge import nearest
from kvsim.scenario.problems import Report
from kvsim.scenario.roles_schema import FixedRoles
from kvsim.scenario.schema import Document, Pool


def placement_rules(document: Document) -> tuple[PlacementRule, ...]:
    """The rules as the scheduler knows them."""
    rules = []
    for rule in document.placement_rules:
        if rule.kv_stays_within is not None:
            rules.append(PlacementRule("kv", rule.kv_stays_within))
        if rule.requests_stay_within is not None:
            rules.append(PlacementRule("request", rule.requests_stay_within))
    return tuple(rules)


def check_rules(document: Document, report: Report) -> None:
    """Every label of a rule is one of workers, every worker has a partner, and every request a pair of them."""
    rules = placement_rules(document)
    if rules and not isinstance(document.scheduling.roles, FixedRoles):
        message = (
            "found rules beside roles that change, expected scheduling.roles fixed: roles change regardless of rules"
        )
        report.add(["placement_rules"], message)
    known = sorted({label for pool in document.workers.values() for label in pool.labels})
    for index, rule in enumerate(rules):
        if rule.label not in known:
            expected = f"one of the labels of workers: {', '.join(known)}" if known else "labels in workers"
            message = f"found '{rule.label}'{nearest(rule.label, known)}, expected {expected}"
            report.add(["placement_rules", str(index)], message)
            return
    if rules and document.transfer.mode != "colocated":
        _check_partners(document, rules, report)
    for rule in rules:
        if rule.kind == "request":
            _check_requests(document, rule.label, report)


def _check_partners(document: Document, rules: tuple[PlacementRule, ...], report: Report) -> None:
    pools = {name: pool for name, pool in document.workers.items() if pool.count}
    for name, pool in pools.items():
        other = "decode" if pool.role == "prefill" else "prefill"
        partners = [partner for partner in pools.values() if partner.role == other]
        if not any(_alike(pool, partner, rules) for partner in partners):
            labels = ", ".join(f"{rule.label}: {pool.labels.get(rule.label, 'none')}" for rule in rules)
            report.add(
                ["workers", name, "labels"],
                f"found a {pool.role} pool that no KV may leave or reach ({labels}), expected a {other} pool with the "
                "same labels, or other placement_rules",
            )


def _check_requests(document: Document, label: str, report: Report) -> None:
    served = {pool.labels.get(label) for pool in document.workers.values() if pool.count}
    asked: list[str | None] = [*document.workload.labels.get(label, {})]
    asked = asked or [None]
    for value in asked:
        if value not in served:
            have = ", ".join(sorted(value or "none" for value in served))
            message = f"found requests with {label} {value or 'none'}, expected one that workers serve: {have}"
            report.add(["workload", "labels"], message)


def _alike(one: Pool, other: Pool, rules: tuple[PlacementRule, ...]) -> bool:
    return all(one.labels.get(rule.label) == other.labels.get(rule.label) for rule in rules)
