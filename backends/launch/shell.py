"""First thing that runs in a worker process: ties its life to its parent's, then becomes the worker.

``python -m backends.launch.shell PARENT_PID MODULE NAME``. Done here rather than between fork and exec, where Python
code is not safe in a process with threads. Linux only (prctl(2), PR_SET_PDEATHSIG): the kernel ends this process when
the *thread* that started it ends, which is why the local launcher starts workers from a thread that lives as long as
itself.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Run MODULE as ``__main__`` in this process, unless the parent is gone already."""
    parent, module, name = arguments
    die_with_parent(int(parent))
    sys.argv = [module, name]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends. Ends it now if the parent has ended before this was set."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the launcher of this worker has ended")


if __name__ == "__main__":
    main(sys.argv[1:])
