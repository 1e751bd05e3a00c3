"""A worker process that ends with the process that started it, even if that is killed: nobody waits for its results.

It must not know what the worker does.
"""

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess


def end_with_parent() -> None:
    """To be called in a worker process of ``multiprocessing`` as it begins, before it is given work.

    Work that was killed may be started again at once, and workers of the first start must not go on beside the new
    ones. A daemon thread waits for the end of the parent and then ends this process, whatever it is at, without
    cleaning up: work that writes files must do so in the parent.
    """
    parent = parent_process()
    assert parent is not None, "a worker without a parent"
    threading.Thread(target=_end_after, args=(parent,), name="parent-watch", daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(1)
