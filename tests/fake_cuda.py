"""The stand-in for libcuda, ``fake_cuda.c``, compiled for these tests, and memory on the GPUs that it makes up."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import weakref
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.transport.cuda_ipc.driver import Driver

SOURCE = Path(__file__).with_name("fake_cuda.c")
COMPILER = shutil.which("cc")

FAKE_CUDA = pytest.mark.skipif(COMPILER is None, reason="no C compiler here: cuda_ipc is NOT tested")
"""Mark of tests that need the stand-in."""


@cache
def fake_cuda_folder() -> Path:
    """Where ``libcuda.so.1`` is the stand-in: what LD_LIBRARY_PATH must be for programs that look for the real one.

    Compiled at first use and kept for the next, by what it is made of, in a folder that is the user's own.
    """
    assert COMPILER is not None, "no C compiler"
    digest = sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"kvsim-fake-cuda-{os.getuid()}-{digest}"
    library = folder / "libcuda.so.1"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} is somebody else's"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made:
            command = [
                COMPILER,
                "-O1",
                "-shared",
                "-fPIC",
                "-pthread",
                "-Wall",
                "-Werror",
                "-o",
                made.name,
                str(SOURCE),
            ]
        subprocess.run(command, check=True)
        Path(made.name).replace(library)
    return folder


def fake_driver() -> Driver:
    """libcuda of a machine with two GPUs, or those that CUDA_VISIBLE_DEVICES names now."""
    return Driver(str(fake_cuda_folder() / "libcuda.so.1"))


@cache
def controls() -> ctypes.CDLL:
    """The functions of the stand-in that are for tests only."""
    library = ctypes.CDLL(str(fake_cuda_folder() / "libcuda.so.1"))
    library.fakeHostView.argtypes, library.fakeHostView.restype = (ctypes.c_uint64,), ctypes.c_void_p
    return library


class FakeTensor:
    """What a torch tensor on a GPU is to a transport. It lies ``offset`` bytes behind the begin of its allocation, as
    tensors of torch's allocator do, and something else behind it. Freed when nobody has it or a view any more."""

    is_cuda = True

    def __init__(self, size_bytes: int, offset: int = 0, ordinal: int = 0) -> None:
        driver = fake_driver()
        device = driver.device(ordinal)
        context = driver.retain(device)
        with driver.current(context):
            begin = driver.allocate(offset + size_bytes + 512)
        self.nbytes = size_bytes
        self._address = begin + offset

        def free() -> None:
            with driver.current(context):
                driver.free(begin)
            driver.release(device)

        weakref.finalize(self, free).atexit = False

    def data_ptr(self) -> int:
        """See ``TensorMemory``."""
        return self._address

    def is_contiguous(self) -> bool:
        """See ``TensorMemory``."""
        return True

    def view(self) -> NDArray[np.uint8]:
        """The bytes, for the test to look at, which the processor could not do on a real GPU."""
        buffer = (ctypes.c_ubyte * self.nbytes).from_address(controls().fakeHostView(self._address))
        weakref.finalize(buffer, lambda _kept: None, self).atexit = False
        return np.ctypeslib.as_array(buffer)
