"""What a user can do about a failed call of the CUDA driver.

Sources: the driver API's documentation of cuIpcGetMemHandle (memory of cuMemAlloc only) and cuIpcOpenMemHandle;
PyTorch's notes on CUDA semantics (backends of its allocator); vllm#55906 (CUDA_ERROR_INVALID_CONTEXT between PID
namespaces); vllm#52607 (CUDA_ERROR_INVALID_VALUE for a GPU that the container does not see); NVIDIA's MIG user guide
(no CUDA IPC between GPU instances). Pure text.
"""

from typing import Final

_ALLOCATOR = (
    "only memory of cudaMalloc has a handle, not what torch allocates in expandable segments or with cudaMallocAsync; "
    "remove both settings from PYTORCH_CUDA_ALLOC_CONF and PYTORCH_ALLOC_CONF"
)
_SEEN = (
    "both processes must see each other: containers need one IPC and PID namespace (docker run --ipc=host --pid=host), "
    "and a process cannot open a handle of its own"
)
_GONE = "the handle is of a process that has gone, has freed the memory, or runs in another container (--ipc=host)"
_UNSEEN = (
    "the peer's GPU is not visible in this container (docker run --gpus all; Kubernetes hides it unless privileged), "
    "or the handle is of a process that has gone"
)
_TOPOLOGY = (
    "the two GPUs cannot reach each other's memory ('nvidia-smi topo -p2p r' shows which can), as is so of two MIG "
    "instances; use one GPU or one instance, or another transport"
)
_NO_GPU = (
    "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, and start containers with --gpus all; workers on a "
    "CPU use transport shm"
)
_EXCLUSIVE = "another process has the GPU to itself: 'nvidia-smi -c DEFAULT' lets several compute on it"
_SETUP = "the driver is not set up: see nvidia-smi; modules and libcuda must be of one version"

_REMEDIES: Final[dict[tuple[str, str], str]] = {
    ("cuInit", "CUDA_ERROR_NO_DEVICE"): _NO_GPU,
    ("cuInit", "CUDA_ERROR_STUB_LIBRARY"): "the libcuda that was found is the toolkit's stub: see LD_LIBRARY_PATH",
    ("cuInit", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"): _SETUP,
    ("cuInit", "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"): _SETUP,
    ("cuInit", "CUDA_ERROR_UNKNOWN"): _SETUP,
    ("cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE"): _NO_GPU,
    ("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE"): _EXCLUSIVE,
    ("cuIpcGetMemHandle", "CUDA_ERROR_INVALID_VALUE"): _ALLOCATOR,
    ("cuIpcGetMemHandle", "CUDA_ERROR_NOT_SUPPORTED"): _ALLOCATOR,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_INVALID_CONTEXT"): _SEEN,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_OPERATING_SYSTEM"): _SEEN,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_INVALID_HANDLE"): _GONE,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_INVALID_VALUE"): _UNSEEN,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_MAP_FAILED"): _TOPOLOGY,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED"): _TOPOLOGY,
    ("cuIpcOpenMemHandle_v2", "CUDA_ERROR_TOO_MANY_PEERS"): "this GPU is connected to as many others as it can be",
}

NO_DRIVER: Final = (
    "install the driver that fits the GPU, start containers with --gpus all; workers on a CPU use transport shm"
)

UNREACHABLE: Final = _TOPOLOGY
"""Of two GPUs of which the driver says so before a handle is opened."""


def remedy_for(function: str, error: str) -> str:
    """What helps; empty where nothing is known."""
    return _REMEDIES.get((function, error), "")
