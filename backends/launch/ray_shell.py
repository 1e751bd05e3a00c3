"""What runs inside a Ray actor: one worker process of the node, started and watched as on a single machine.

A process of its own rather than the actor's, so that the worker is the same on every launcher: its environment is set
before torch is imported, its secret comes through a pipe, its last lines are kept. GPUs that Ray gave the actor reach
it as ``CUDA_VISIBLE_DEVICES``. This module must not know Ray: it is sent to actors whole.
"""

import select

from backends.launch.local import LocalLauncher
from backends.launch.port import ExitNotice, WorkerLaunch


class WorkerShell:
    """The actor. When it is killed, its worker dies with it."""

    def run(self, launch: WorkerLaunch) -> ExitNotice:
        """Run the worker until it ends."""
        with LocalLauncher() as local:
            local.start(launch)
            while True:
                select.select([local], [], [])
                for notice in local.exits():
                    return notice
