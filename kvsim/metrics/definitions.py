"""What every metric means, in one sentence each: the source of the README table and of the tooltips in reports.

Keys are those of the summary; keys inside a metric are joined by a dot. Statistics (``mean``, ``p50``, ...), roles and
directions are not spelled out: ``ttft_s.p99`` is defined by ``ttft_s``, ``gpu_busy.decode`` by ``gpu_busy``.
"""

from kvsim.metrics.definition import Definition
from kvsim.metrics.failure_definitions import FAILURE_DEFINITIONS

__all__ = ["DEFINITIONS", "Definition", "definition_of"]

DEFINITIONS: dict[str, Definition] = {
    "requests": Definition("", "How many requests arrived, finished with output, or were rejected without."),
    "requests.arrived": Definition("", "Requests that a client sent."),
    "requests.finished": Definition("", "Requests that ended with output (stop or length)."),
    "requests.rejected": Definition("", "Requests that ended without output (too_long, timeout or shed)."),
    "requests.shed": Definition("", "Those rejected on arrival, as scheduling.queue_requests_max were waiting."),
    "requests.failed": Definition("", "Requests whose KV reached no decode worker, whatever was tried."),
    "ttft_s": Definition(
        "s",
        "Time to first token: from the arrival to the end of the prefill, or, where the decode worker sends the first "
        "token, to the end of the transfer; over finished requests.",
    ),
    "tpot_s": Definition(
        "s",
        "Time per output token of a request: from its first to its last token, divided by the tokens after the first; "
        "over finished requests with at least two tokens.",
    ),
    "itl_s": Definition(
        "s",
        "Inter-token latency: the interval between two consecutive output tokens of a request, each pair of tokens of "
        "the finished requests counted once.",
    ),
    "e2e_s": Definition("s", "From the arrival of a request to its end; over finished requests."),
    "transfer_s": Definition(
        "s",
        "From the start of a request's first transfer to the completion of its last one, in its first hand-over; over "
        "finished requests with a transfer.",
    ),
    "prefill_queue_s": Definition("s", "From the arrival to the start of the first prefill; over finished requests."),
    "decode_queue_s": Definition(
        "s",
        "Time that a request with its prompt's KV complete waits without computing or moving bytes: for the start of "
        "its transfer and for its first decode step; over finished requests that decoded.",
    ),
    "stages_s": Definition(
        "s", "Mean time of finished requests in each stage; the stages of a request add up to its E2E."
    ),
    "stages_s.prefill_queue": Definition("s", "From the arrival to the start of the first prefill."),
    "stages_s.prefill": Definition("s", "From the start of the first prefill to the end of the prompt's last chunk."),
    "stages_s.decode_memory_wait": Definition(
        "s", "From the end of the prefill to the start of the transfer, if that comes later."
    ),
    "stages_s.transfer_exposed": Definition("s", "The part of the transfer that comes after the end of the prefill."),
    "stages_s.decode_wait": Definition(
        "s", "From the end of prefill and transfer to the order for the first decode step."
    ),
    "stages_s.decode": Definition(
        "s", "From the order for the first decode step to the end, including all that follows a preemption."
    ),
    "gpu_busy": Definition(
        "", "Share of the makespan in which the workers of a role computed a prefill or a decode step, on average."
    ),
    "kv_reserved_unfilled_block_s": Definition(
        "block·s",
        "KV blocks that were assigned to a request but not filled yet, summed over time and over the workers of a "
        "role; a block that has a part of its layers counts for the rest.",
    ),
    "kv_held_block_s": Definition(
        "block·s",
        "Filled KV blocks that prefill workers kept after the end of the prefill until they were released, summed over "
        "time; 0 for other roles.",
    ),
    "link_utilisation": Definition(
        "",
        "Bytes of KV that the workers of a role sent or received, as a share of what their NICs carry one way in the "
        "makespan.",
    ),
    "slo_attainment": Definition(
        "", "Share of the arrived requests that finished and met every objective; undefined without an objective."
    ),
    "goodput_req_per_s": Definition(
        "req/s",
        "Requests that finished and met every objective, per second of the makespan; all that finished where there is "
        "no objective.",
    ),
    "throughput": Definition("1/s", "Output of the cluster per second of the makespan."),
    "throughput.requests_per_s": Definition("req/s", "Finished requests per second of the makespan."),
    "throughput.output_tokens_per_s": Definition("tokens/s", "Output tokens per second of the makespan."),
    "makespan_s": Definition("s", "From the first arrival to the last event."),
    "transfers": Definition("", "Completed KV transfers."),
    "transfers.count": Definition("", "Completed KV transfers; a request has one for each group of layers."),
    "transfers.bytes": Definition("B", "Bytes of KV that completed transfers moved."),
    "transfers.operations": Definition(
        "", "One-sided operations after coalescing, or packed messages, of completed transfers."
    ),
    "transfers.bytes_per_operation": Definition("B", "Bytes of completed transfers per operation."),
    "role_switches": Definition("", "Workers that changed between prefill and decode at run time."),
    "role_switches.count": Definition("", "Orders to change a role, each to a worker that had drained."),
    "role_switches.draining_worker_s": Definition(
        "worker·s",
        "Time from the decision that a worker drains to the order to switch, or until it was taken back, summed over "
        "workers; they finish what they have in it.",
    ),
    "role_switches.switching_worker_s": Definition(
        "worker·s",
        "Time from the order to switch to the report that the worker serves in its new role, summed over workers; they "
        "compute nothing in it.",
    ),
    "preemptions": Definition(
        "", "How often a request lost its KV blocks on its decode or colocated worker before its end."
    ),
    **FAILURE_DEFINITIONS,
}


def definition_of(path: str) -> Definition:
    """The definition of a dotted path of the summary: its own, or that of the nearest key above it.

    Raises KeyError where there is none.
    """
    key = path
    while key not in DEFINITIONS:
        key, dot, _ = key.rpartition(".")
        if not dot:
            raise KeyError(path)
    return DEFINITIONS[key]
