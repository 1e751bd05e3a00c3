#!/usr/bin/env python3
"""Runs one command in each of two guests that share an Ethernet link.

    run_in_two_guests.py [options of run_in_guest.sh] -- COMMAND [ARG...]

COMMAND runs in both, told apart by RXE_HOST (0 or 1) and RXE_ADDRESSES (the
IPv4 addresses of host 0 and host 1).  Output lines are prefixed with the host.
The exit status is the first that is not 0; the other guest is then ended.
The link is a pair of connected sockets: no port, no bridge, no privilege.

What is sent to a guest that has ended is taken in and dropped, as a switch
drops it.  Left in the socket, or refused by it, packets would stay for ever in
the queue of the other guest's interface, and with them the queue pairs that
they belong to: Soft-RoCE counts a reference for each packet that has not left
(Linux, rxe_net.c), and destroying a queue pair waits 50 s for them
(rxe_pool.c: "rxe_destroy_qp: cleanup failed, err = -110").
"""

import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

ADDRESSES = ["10.77.0.1", "10.77.0.2"]


def main() -> int:
    split = sys.argv.index("--")
    options, command = sys.argv[1:split], sys.argv[split + 1 :]
    script = Path(__file__).with_name("run_in_guest.sh")
    guests = []
    link = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for host, end in enumerate(link):
        # Some room, so that a guest does not stall (and time out) on the other's full queue.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        arguments = ["--hostname", f"host{host}", "--address", f"{ADDRESSES[host]}/24", "--link-fd", str(end.fileno())]
        environment = {**os.environ, "RXE_HOST": str(host), "RXE_ADDRESSES": " ".join(ADDRESSES)}
        guests.append(
            subprocess.Popen(
                [script, *options, *arguments, "--", *command],
                env=environment,
                pass_fds=[end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        )
    status = []

    def follow(host: int) -> None:
        output = guests[host].stdout
        assert output is not None
        for line in output:
            sys.stdout.buffer.write(b"[%d] %s" % (host, line))
            sys.stdout.buffer.flush()
        if guests[host].wait():
            status.append(guests[host].returncode)
            guests[1 - host].terminate()
        while guests[1 - host].poll() is None:
            if select.select([link[host]], [], [], 0.1)[0]:
                link[host].recv(1 << 16, socket.MSG_DONTWAIT)

    threads = [threading.Thread(target=follow, args=(host,)) for host in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return status[0] if status else 0


sys.exit(main())
