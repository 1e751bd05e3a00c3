"""What a run folder holds, made up: realistic shapes and sizes for the tests of ``kvsim.report``.

The numbers are drawn, not simulated: requests queue, run prefill, wait for decode memory, move their KV and decode.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

NS = 1_000_000_000
VARIANTS: Mapping[str, tuple[float, float, float, float]] = {
    # mean seconds of: prefill queue, wait for decode memory, exposed transfer, decode per token
    "pull": (0.35, 0.20, 0.030, 0.018),
    "push": (1.60, 0.00, 0.004, 0.019),
    "colocated": (0.60, 0.00, 0.0, 0.034),
}
WORKERS = {
    "pull": ("prefill", "prefill", "decode", "decode"),
    "push": ("prefill", "prefill", "decode", "decode"),
    "colocated": ("colocated",) * 4,
}
STAGE_KEYS = ("prefill_queue", "prefill", "decode_memory_wait", "transfer_exposed", "decode_wait", "decode")


def make_requests(count: int = 300, seed: int = 7) -> pd.DataFrame:
    """One row a request and variant; the last request of ``push`` is rejected: it has an arrival and an end."""
    parts = [_variant_requests(name, count, seed) for name in VARIANTS]
    return pd.concat(parts, ignore_index=True)


def _variant_requests(name: str, count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    queue_s, memory_s, transfer_s, step_s = VARIANTS[name]
    colocated = name == "colocated"
    prompt = rng.lognormal(6.8, 1.0, count).astype(np.int64).clip(16, 12_000)
    output = rng.lognormal(4.8, 0.8, count).astype(np.int64).clip(1, 1_000)
    arrival = np.cumsum(rng.exponential(0.3, count))
    start = arrival + rng.exponential(queue_s, count)
    end = start + 0.01 + prompt * 9e-5
    reserved = end + (rng.exponential(memory_s, count) if memory_s else 0.0)
    moved = reserved + (transfer_s * prompt / 900 if not colocated else 0.0)
    decode = moved + rng.exponential(0.004, count)
    finished = decode + (output - 1) * step_s * rng.uniform(0.8, 1.3, count)
    frame = pd.DataFrame({"variant": name, "request": np.arange(count), "outcome": "stop"})
    frame["prompt_tokens"], frame["output_tokens"] = prompt, output
    instants = {
        "arrival_ns": arrival,
        "prefill_start_ns": start,
        "prefill_end_ns": end,
        "decode_reserved_ns": reserved,
        "transfer_start_ns": reserved,
        "transfer_end_ns": moved,
        "decode_start_ns": decode,
        "first_token_ns": end,
        "finished_ns": finished,
    }
    for column, seconds in instants.items():
        frame[column] = (seconds * NS).astype(np.int64)
    frame["preemptions"] = 0
    frame["transfer_bytes"], frame["transfer_operations"] = prompt * 131_072, 32 * (prompt // 16 + 1)
    frame = frame.astype(dict.fromkeys([c for c in frame.columns if c not in ("variant", "outcome")], "Int64"))
    workers = ("colocated", "colocated") if colocated else ("prefill", "decode")
    frame["prefill_worker"], frame["decode_worker"] = [[f"{role}-{n % 2}" for n in range(count)] for role in workers]
    if colocated:
        moves = ["transfer_start_ns", "transfer_end_ns", "decode_reserved_ns", "transfer_bytes", "transfer_operations"]
        frame[moves] = pd.NA
    if name == "push":
        frame.loc[count - 1, "outcome"] = "too_long"
        frame.loc[count - 1, [column for column in instants if column not in ("arrival_ns", "finished_ns")]] = pd.NA
    return frame


def make_workers(samples: int = 240, seed: int = 11) -> pd.DataFrame:
    """A time series per worker; ``push`` holds much more decode memory than it fills."""
    parts = []
    for place, (name, roles) in enumerate(WORKERS.items()):
        for worker, role in enumerate(roles):
            rng = np.random.default_rng((seed, place, worker))
            time_s = np.arange(samples) * 0.5
            load = 0.55 + 0.3 * np.sin(time_s / 14 + worker) + rng.normal(0, 0.06, samples)
            filled = (load.clip(0, 1) * (2_000 if role == "prefill" else 7_000)).astype(np.int64)
            extra = {"pull": 150, "push": 2_400 if role == "decode" else 300, "colocated": 200}[name]
            moved = 0.0 if role == "colocated" else 4e9
            part = pd.DataFrame(
                {"variant": name, "worker": f"{role}-{worker}", "role": role, "time_ns": np.arange(samples)}
            )
            part["time_ns"] = (time_s * NS).astype(np.int64)
            part["interval_ns"] = NS // 2
            part["busy"] = load.clip(0, 1)
            part["requests_running"] = (load.clip(0, 1) * 40).astype(np.int64)
            part["kv_blocks"] = 12_000
            part["kv_filled_blocks"] = filled
            part["kv_reserved_blocks"] = filled + (rng.uniform(0.6, 1.4, samples) * extra).astype(np.int64)
            part["sent_bytes_per_s"] = load.clip(0, 1) * moved if role == "prefill" else 0.0
            part["received_bytes_per_s"] = load.clip(0, 1) * moved if role == "decode" else 0.0
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _statistics(seconds: "pd.Series[float]") -> dict[str, float] | None:
    known = seconds.dropna().astype(float)
    if known.empty:
        return None
    p50, p90, p99 = (float(value) for value in np.percentile(known, [50, 90, 99]))
    return {"mean": float(known.mean()), "p50": p50, "p90": p90, "p99": p99}


def make_summary(scenario: str = "chat-4-workers") -> dict[str, Any]:
    """A summary that fits ``make_requests`` and ``make_workers``."""
    requests, workers = make_requests(), make_workers()
    variants = {
        str(name): _variant_summary(str(name), part, workers[workers["variant"] == name])
        for name, part in requests.groupby("variant", sort=False)
    }
    return {"scenario": scenario, "seed": 7, "kvsim_version": "0.1.0", "variants": variants}


def _variant_summary(name: str, rows: pd.DataFrame, workers: pd.DataFrame) -> dict[str, Any]:
    done = rows[rows["first_token_ns"].notna()]

    def span(start: str, end: str) -> "pd.Series[float]":
        return (done[end] - done[start]) / NS

    decode_s = span("decode_start_ns", "finished_ns")
    moved = name != "colocated"
    spans = {
        "prefill_queue": span("arrival_ns", "prefill_start_ns"),
        "prefill": span("prefill_start_ns", "prefill_end_ns"),
        "decode_memory_wait": span("prefill_end_ns", "decode_reserved_ns"),
        "transfer_exposed": span("transfer_start_ns", "transfer_end_ns"),
        "decode_wait": span("transfer_end_ns" if moved else "prefill_end_ns", "decode_start_ns"),
        "decode": decode_s,
    }
    tokens = done["output_tokens"]
    per_token = (decode_s / (tokens - 1))[tokens > 1]
    makespan_s = float(done["finished_ns"].max() - rows["arrival_ns"].min()) / NS
    unfilled = (workers["kv_reserved_blocks"] - workers["kv_filled_blocks"]) * workers["interval_ns"] / NS
    held = workers["kv_reserved_blocks"] * workers["interval_ns"] / NS
    ways = {"sent": "sent_bytes_per_s", "received": "received_bytes_per_s"}
    roles = workers["role"].drop_duplicates().tolist()
    return {
        "requests": {"arrived": len(rows), "finished": len(done), "rejected": len(rows) - len(done)},
        "ttft_s": _statistics(span("arrival_ns", "first_token_ns")),
        "tpot_s": _statistics(per_token),
        "itl_s": _statistics(per_token * 1.2),
        "e2e_s": _statistics(span("arrival_ns", "finished_ns")),
        "transfer_s": _statistics(spans["transfer_exposed"]),
        "prefill_queue_s": _statistics(spans["prefill_queue"]),
        "decode_queue_s": _statistics(spans["decode_memory_wait"]),
        "stages_s": {key: float(spans[key].fillna(0).astype(float).mean()) for key in STAGE_KEYS},
        "gpu_busy": {role: float(workers.loc[workers["role"] == role, "busy"].mean()) for role in roles},
        "kv_reserved_unfilled_block_s": {role: float(unfilled[workers["role"] == role].sum()) for role in roles},
        "kv_held_block_s": {role: float(held[workers["role"] == role].sum()) for role in roles},
        "link_utilisation": {
            role: {w: float(workers.loc[workers["role"] == role, c].mean() / 48e9) for w, c in ways.items()}
            for role in roles
        },
        "slo_attainment": float((span("arrival_ns", "first_token_ns") < 1.5).sum() / len(rows)),
        "goodput_req_per_s": float((span("arrival_ns", "first_token_ns") < 1.5).sum()) / makespan_s,
        "throughput": {
            "requests_per_s": len(done) / makespan_s,
            "output_tokens_per_s": float(tokens.sum()) / makespan_s,
        },
        "makespan_s": makespan_s,
        "transfers": {
            "count": len(done) if moved else 0,
            "bytes": int(done["transfer_bytes"].fillna(0).sum()),
            "operations": int(done["transfer_operations"].fillna(0).sum()),
            "bytes_per_operation": 65536.0 if moved else None,
        },
        "preemptions": 0,
        "notes": ["1 request was rejected: it fits no block pool"] if name == "push" else [],
    }


def test_the_made_up_stages_add_up_to_the_mean_latency() -> None:
    for variant in make_summary()["variants"].values():
        assert abs(sum(variant["stages_s"].values()) - variant["e2e_s"]["mean"]) < 1e-6
