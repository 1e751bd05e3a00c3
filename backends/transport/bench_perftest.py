"""What perftest, the RDMA community's own benchmark, says of the device on which transport verbs is measured.

Two processes of one of its programs over the same device and port, which find each other over loopback. It must not
know our transports.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

Program = Literal["ib_read_bw", "ib_write_bw", "ib_read_lat"]

_TIMEOUT_S = 60.0
_TRIES = 3
_ITERATIONS = (100, 2000)
"""At least and at most; perftest asks for a completion every 100 work requests."""

_LATENCY_ITERATIONS_MAX = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where to measure: the device, its port, and the index of the GID on Ethernet."""

    device: str
    port: int
    gid_index: int | None


def missing(programs: Sequence[Program] = ("ib_read_bw", "ib_write_bw", "ib_read_lat")) -> str:
    """Why perftest cannot be asked, or an empty text."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{', '.join(absent)} not found: install the package perftest" if absent else ""


def measured(program: Program, place: Place, block_bytes: int, total_bytes: int) -> float | None:
    """Bytes per second, or for ib_read_lat the typical nanoseconds of a READ; None if perftest prints no figure.

    It takes its time from the processor's counter, and prints 0 where it does not learn the counter's rate or a busy
    machine spoils the sample with which it makes sure. So it may be asked several times.
    """
    low, high = _ITERATIONS
    most = _LATENCY_ITERATIONS_MAX if program == "ib_read_lat" else high
    iterations = min(most, max(low, total_bytes // block_bytes))
    for _ in range(_TRIES):
        value = figure(_run(program, place, block_bytes, iterations), program, block_bytes)
        if value and isfinite(value):
            return value
    return None


def figure(printed: str, program: Program, block_bytes: int) -> float | None:
    """The figure in what perftest printed with --report_gbits: of the row that begins with the block's size."""
    for line in printed.splitlines():
        words = line.split()
        if len(words) >= 5 and words[0] == str(block_bytes):
            # lat: bytes, iterations, least, most, typical .. in us; bw: bytes, iterations, peak, average in Gb/s
            return float(words[4]) * 1e3 if program == "ib_read_lat" else float(words[3]) * 1e9 / 8
    return None


def _run(program: Program, place: Place, block_bytes: int, iterations: int) -> str:
    """What the client prints; empty if the two do not get together."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "-F", "-d", place.device, "-i", str(place.port), "-p", str(port)]
    command += ["-s", str(block_bytes), "-n", str(iterations)]
    if place.gid_index is not None:
        command += ["-x", str(place.gid_index)]
    if program != "ib_read_lat":
        command.append("--report_gbits")
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline_s and server.poll() is None:
            # the server says nothing when it begins to listen, and a client that finds nobody ends at once
            client = subprocess.run(
                [*command, "127.0.0.1"], check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
            if client.returncode == 0:
                return client.stdout
            time.sleep(0.2)
    except subprocess.TimeoutExpired:
        pass  # no figure
    finally:
        server.kill()
        server.wait()
    return ""
