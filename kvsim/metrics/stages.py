"""Where the time of a request goes: the stages from its arrival to its end, which add up to E2E exactly."""

import numpy as np

from kvsim.metrics.columns import MISSING, Integers, RequestColumns

STAGES = ("prefill_queue", "prefill", "decode_memory_wait", "transfer_exposed", "decode_wait", "decode")


def stage_durations(requests: RequestColumns) -> dict[str, Integers]:
    """For each stage its duration in ns, one entry a request. Only entries of finished requests mean anything.

    A stage begins where the one before it ends; what happened earlier than that, such as the part of a transfer that
    the prefill hides, takes no time of its own. A stage that a request does not have lasts 0.
    """
    transferred = requests.transfer_end_ns != MISSING
    prefill_end_ns = requests.prefill_end_ns
    transfer_start_ns = np.where(transferred, np.maximum(prefill_end_ns, requests.transfer_start_ns), prefill_end_ns)
    transfer_end_ns = np.maximum(transfer_start_ns, requests.transfer_end_ns)
    decode_start_ns = np.maximum(transfer_end_ns, requests.decode_start_ns)
    boundaries = (
        requests.arrival_ns,
        requests.prefill_start_ns,
        prefill_end_ns,
        transfer_start_ns,
        transfer_end_ns,
        decode_start_ns,
        requests.finished_ns,
    )
    return {stage: end - start for stage, start, end in zip(STAGES, boundaries[:-1], boundaries[1:], strict=True)}
