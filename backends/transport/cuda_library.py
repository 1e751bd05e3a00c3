"""libcuda, the library of the CUDA driver, loaded by whoever asks it something."""

import ctypes

from backends.transport.port import TransportError

LIBRARY = "libcuda.so.1"


def load(path: str = LIBRARY) -> ctypes.CDLL:
    """The library, which comes with the driver and not with CUDA or torch. Raises TransportError."""
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise TransportError(f"the CUDA driver cannot be loaded: {error}") from None
