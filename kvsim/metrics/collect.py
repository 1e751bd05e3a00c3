"""The columns of a run that has been recorded."""

from collections.abc import Iterable

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import Record
from kvsim.metrics.collector import Collector
from kvsim.metrics.columns import RunColumns


def collect(cluster: ClusterSpec, records: Iterable[Record]) -> RunColumns:
    """The columns of a stored record."""
    collector = Collector(cluster)
    for record in records:
        collector.observe(record.now_ns, record.events, record.commands)
    return collector.finish()
