"""The owner's process of the transfer benchmark: ``python -m backends.transport.bench_owner KIND POOL_BYTES``.

It obeys one line of JSON on standard input at a time and answers with one on standard output, so that an owner that has
nothing to do sleeps. It ends when its input does.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from backends.transport.bench_peers import open_side
from backends.transport.bench_side import Blocks, Side, scattered_blocks


def main(kind: str, pool_bytes: int) -> None:
    """Serve one initiator."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that log to standard output must not talk in between

    def say(answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    side = open_side(kind, "owner", pool_bytes)
    say(side.describe())
    side.meet(json.loads(sys.stdin.readline()))
    say("ready")
    drawn: dict[int, Blocks] = {}
    for line in sys.stdin:
        say(_obey(side, drawn, json.loads(line)))
    side.close()
    os._exit(0)  # some peers' libraries crash in their destructors


def _obey(side: Side, drawn: dict[int, Blocks], order: dict[str, Any]) -> object:
    number = order.get("number", 0)
    match order["do"]:
        case "draw":
            drawn[number] = scattered_blocks(len(side.pool), order["total"], order["block"], order["seed"])
        case "stamp":
            side.stamp(drawn[number].owner, drawn[number].block_bytes, number)
        case "wrong":
            return side.wrong_blocks(drawn[number].owner, drawn[number].block_bytes, number)
        case "assist":
            side.assist(order["operation"], drawn[number].first() if order["alone"] else drawn[number])
        case "stream":
            threading.Thread(target=_send_streams, args=(side, order["port"]), daemon=True).start()
        case "idle":
            return _idle(order["seconds"])
    return "done"


def _send_streams(side: Side, port: int) -> None:
    """The reference: contiguous bytes over one plain socket, as many as each request of 8 bytes asks for."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while request := connection.recv(8):
            connection.sendall(side.pool.data[: int.from_bytes(request, "little")])


def _idle(seconds: float) -> dict[str, float]:
    """CPU time and wake-ups of this process while it has nothing to do."""
    cpu_s, wakeups = time.process_time(), _wakeups()
    time.sleep(seconds)
    return {"cpu_s": time.process_time() - cpu_s, "wakeups": _wakeups() - wakeups}


def _wakeups() -> int:
    texts = [(task / "status").read_text(encoding="ascii") for task in Path("/proc/self/task").iterdir()]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
