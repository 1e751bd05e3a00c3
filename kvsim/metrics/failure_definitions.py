"""What the numbers of things that went wrong mean: the part of ``kvsim.metrics.definitions`` for ``failures``."""

from kvsim.metrics.definition import Definition

FAILURE_DEFINITIONS: dict[str, Definition] = {
    "failures": Definition(
        "",
        "What came of faults; missing in runs in which no worker came or went, no transfer broke, and every request "
        "ended with an answer or was rejected.",
    ),
    "failures.workers_lost": Definition("", "How often a worker was reported lost."),
    "failures.workers_left": Definition("", "How often a worker that was to leave had nothing left and was let go."),
    "failures.workers_joined": Definition("", "How often a worker joined, for the first time or again."),
    "failures.worker_absent_s": Definition(
        "s", "Time in the makespan for which workers were known not to be there, summed over the workers."
    ),
    "failures.transfers_failed": Definition("", "Transfers that were reported failed."),
    "failures.transfers_cut": Definition("", "Transfers in flight from or to a worker when it was reported lost."),
    "failures.transfers_stale": Definition(
        "",
        "Transfers whose blocks were not proven to be the request's own in the end; nothing is computed from them.",
    ),
    "failures.transfers_retried": Definition(
        "", "Transfers that began after the one before of the same request had failed, was cut or was stale."
    ),
    "failures.transfers_rerouted": Definition(
        "", "Those retried that took another way than the usual one: the NICs that are left."
    ),
    "failures.leases_expired": Definition(
        "",
        "How often KV on the prefill side was given up, as nobody showed for a whole lease that he wanted it "
        "(scheduling.kv_lease).",
    ),
    "failures.requests_cancelled": Definition("", "Requests that ended because their client had gone."),
    "failures.requests_unfinished": Definition(
        "", "Requests that had not ended when nothing could happen any more, as nobody was left to serve them."
    ),
    "failures.requests_set_back": Definition(
        "", "Requests with KV on a worker when it was reported lost, which could not go on without it."
    ),
    "failures.recomputed_tokens": Definition(
        "", "Tokens that were prefilled more than once, after a loss, a failed transfer or a preemption."
    ),
    "failures.recovery_s": Definition(
        "s",
        "From the report of a loss to the next token of a request that it set back, where there was one; each loss "
        "that a request suffered counts.",
    ),
    "failures.struck": Definition(
        "", "Faults of a simulated run that struck, by kind; those that found nothing to strike are left out."
    ),
}
