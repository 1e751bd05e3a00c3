"""The calls of the CUDA driver, held against a stand-in for libcuda and, where it is installed, the vendor's header."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import COMPILER, FAKE_CUDA, SOURCE, FakeTensor, controls, fake_driver
from hypothesis import given
from hypothesis import strategies as st

from backends.transport.cuda_ipc import driver as driver_module
from backends.transport.cuda_ipc.driver import HANDLE_BYTES, CudaError, Driver
from backends.transport.cuda_ipc.gpu import Gpu, Spans
from backends.transport.cuda_ipc.pool import GpuPool
from backends.transport.memory import tensor_memory_of
from backends.transport.port import TransportError

pytestmark = FAKE_CUDA

SIZE = 1 << 20


def vendor_headers() -> list[Path]:
    """Folders with a ``cuda.h`` of 12.8 or newer, which knows copies in batches."""
    roots = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), *Path("/usr/local").glob("cuda-1[23]*")]
    folders = [root / "include" for root in roots]
    folders += [path.parent for path in Path(np.__file__).parents[1].glob("nvidia/*/include/cuda.h")]
    files = [folder / "cuda.h" for folder in folders]
    return [file.parent for file in files if file.is_file() and "cuMemcpyBatchAsync" in file.read_text("utf-8")]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    made = Gpu(fake_driver())
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Contexts that were retained are released, and the stand-in is as it was."""
    before = controls().fakeRetained()
    yield
    assert controls().fakeRetained() == before
    controls().fakeBatches(1)
    controls().fakeExportable(1)
    controls().fakeDelay(0)


def fail_next(function: str, number: int) -> None:
    controls().fakeFailNext(function.encode(), number)


# --- the calls themselves ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not vendor_headers(), reason="no cuda.h of CUDA 12.8 or newer here")
@pytest.mark.parametrize("options", [(), ("-D__CUDA_API_VERSION_INTERNAL",)], ids=["v2 names", "all names"])
def test_the_stand_in_has_the_prototypes_structures_and_constants_of_the_vendor(options: tuple[str, ...]) -> None:
    folder = vendor_headers()[0]
    command = [str(COMPILER), "-fsyntax-only", "-Werror", "-DWITH_CUDA_H", *options, f"-I{folder}", str(SOURCE)]
    subprocess.run(command, check=True)


def test_structures_that_are_passed_have_the_sizes_that_the_stand_in_asserts() -> None:
    assert ctypes.sizeof(driver_module._Handle) == HANDLE_BYTES == 64
    assert ctypes.sizeof(driver_module._CopyAttributes) == 24
    assert driver_module._CopyAttributes.flags.offset == 20


def test_a_device_is_named_by_its_uuid_and_place_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    driver = fake_driver()
    first, second = driver.devices()
    assert driver.pci_address(second) == "0000:3b:00.0"
    uuid = driver.uuid(second)
    assert uuid == b"G" * 15 + b"\x01"
    assert driver.device_at("0000:3b:00.0") == second
    assert driver.can_reach(first, second)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    driver = fake_driver()
    assert [driver.uuid(device) for device in driver.devices()] == [uuid]


def test_an_error_names_call_error_and_remedy() -> None:
    fail_next("cuInit", 100)
    with pytest.raises(CudaError, match=r"^cuInit: CUDA_ERROR_NO_DEVICE: no GPU is visible: see nvidia-smi") as caught:
        fake_driver()
    assert caught.value.number == 100
    driver = fake_driver()
    fail_next("cuDeviceGetCount", 12345)
    with pytest.raises(CudaError, match=r"^cuDeviceGetCount: error 12345$"):
        driver.devices()
    with pytest.raises(CudaError, match=r"^cuDeviceGet: CUDA_ERROR_INVALID_DEVICE: no GPU is visible"):
        driver.device(7)
    with pytest.raises(CudaError, match=r"^cuDeviceGetByPCIBusId: CUDA_ERROR_INVALID_DEVICE$"):
        driver.device_at("0000:01:00.0")


def test_without_a_driver_the_user_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"cannot be loaded: .*no-such.*; install the driver .* --gpus all"):
        Driver(str(tmp_path / "no-such.so"))
    empty, library = tmp_path / "empty.c", tmp_path / "libold.so"
    empty.write_text("int cuInit(unsigned int flags) { return (int)flags; }\n")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(empty)], check=True)
    with pytest.raises(TransportError, match=r"has no cuGetErrorName: it is older than CUDA 11\.4"):
        Driver(str(library))


def test_a_context_is_current_within_and_not_afterwards() -> None:
    driver = fake_driver()
    with pytest.raises(CudaError, match="cuMemAlloc_v2: CUDA_ERROR_INVALID_CONTEXT"):
        driver.allocate(SIZE)
    context = driver.retain(driver.device(0))
    with driver.current(context):
        address = driver.allocate(SIZE)
        assert driver.ordinal_of(address + 5) == 0
        assert driver.allocation(address + 5) == (address, SIZE)
        assert driver.allocation(address + SIZE) is None
        driver.free(address)
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_VALUE"), driver.current(context):
        driver.free(address)  # what fails within does not leave it current either
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_CONTEXT"):
        driver.allocate(SIZE)
    driver.release(driver.device(0))


# --- memory --------------------------------------------------------------------------------------------------------


def test_a_tensor_inside_an_allocation_travels_with_its_offset(gpu: Gpu) -> None:
    tensor = FakeTensor(SIZE, offset=1536)
    export = gpu.export(tensor_memory_of(tensor))
    assert (export.offset, export.size_bytes, export.address) == (1536, SIZE, tensor.data_ptr())
    same_allocation = tensor_memory_of(FakeTensor(SIZE, offset=1536))
    assert gpu.export(same_allocation).handle != export.handle


def test_memory_without_a_handle_is_refused_with_the_setting_that_is_to_blame(gpu: Gpu) -> None:
    controls().fakeExportable(0)
    expandable = FakeTensor(SIZE)
    with pytest.raises(TransportError, match=r"cuIpcGetMemHandle: CUDA_ERROR_INVALID_VALUE: .*PYTORCH_CUDA_ALLOC_CONF"):
        gpu.export(tensor_memory_of(expandable))


def test_memory_of_another_gpu_is_refused_by_name(gpu: Gpu) -> None:
    with pytest.raises(TransportError, match=r"lies on GPU 0000:3b:00\.0, this end moves memory of GPU 0000:3a:00\.0"):
        gpu.export(tensor_memory_of(FakeTensor(SIZE, ordinal=1)))


def test_a_handle_cannot_be_opened_by_its_own_process_and_a_senseless_one_by_nobody(gpu: Gpu) -> None:
    export = gpu.export(tensor_memory_of(FakeTensor(SIZE)))
    with pytest.raises(CudaError, match=r"cuIpcOpenMemHandle_v2: CUDA_ERROR_INVALID_CONTEXT: .*--ipc=host --pid=host"):
        gpu.open(export.handle, SIZE)
    with pytest.raises(CudaError, match=r"cuIpcOpenMemHandle_v2: CUDA_ERROR_INVALID_HANDLE: .*has gone"):
        gpu.open(bytes(HANDLE_BYTES), SIZE)
    fail_next("cuIpcOpenMemHandle_v2", 205)
    with pytest.raises(CudaError, match=r"CUDA_ERROR_MAP_FAILED: .*nvidia-smi topo -p2p r.*MIG"):
        gpu.open(export.handle, SIZE)


def test_gpus_that_cannot_reach_each_other_are_told_so_before_a_handle_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,9")
    driver = fake_driver()
    near, far = Gpu(driver), Gpu(driver, "0000:43:00.0")
    near.refuse_unreachable(near.identity)
    with pytest.raises(TransportError, match=r"GPU 0000:3a:00\.0 cannot access memory of GPU 0000:43:00\.0: .*topo"):
        near.refuse_unreachable(far.identity)
    near.close()
    far.close()


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=4),
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
)
def test_addresses_are_of_a_gpu_if_a_span_has_them(pieces: list[tuple[int, int]], addresses: list[int]) -> None:
    spans, asked = Spans(), np.array(addresses, dtype=np.uint64)
    for begin, size_bytes in pieces:
        spans.add(begin, size_bytes)
    inside = [[begin <= at < begin + size for at in addresses] for begin, size in pieces]
    assert spans.touch(asked) == any(any(row) for row in inside)
    assert spans.hold(asked) == any(all(row) for row in inside)
    for piece in reversed(pieces):
        spans.remove(*piece)
    assert not spans.touch(asked)


# --- copies --------------------------------------------------------------------------------------------------------


def moved(gpu: Gpu, blocks: int, block_bytes: int = 64) -> bool:
    """Copy shuffled blocks within a GPU; whether they arrived."""
    source, target = FakeTensor(blocks * block_bytes), FakeTensor(blocks * block_bytes, offset=512)
    for tensor in (source, target):
        gpu.spans.add(tensor.data_ptr(), tensor.nbytes)
    source.view()[:] = np.random.default_rng(1).integers(0, 256, source.nbytes, dtype=np.uint8)
    order = np.random.default_rng(2).permutation(blocks).astype(np.uint64)
    steps = np.arange(blocks, dtype=np.uint64)
    copied = gpu.copy(
        steps * np.uint64(block_bytes) + np.uint64(target.data_ptr()),
        order * np.uint64(block_bytes) + np.uint64(source.data_ptr()),
        np.full(blocks, block_bytes, dtype=np.int64),
        bytearray(1),
    )
    for tensor in (source, target):
        gpu.spans.remove(tensor.data_ptr(), tensor.nbytes)
    there = target.view().reshape(blocks, block_bytes)
    return copied == blocks and np.array_equal(there, source.view().reshape(blocks, block_bytes)[order])


def test_scattered_copies_within_gpus_take_one_call_for_thousands(gpu: Gpu) -> None:
    before = controls().fakeBatchCalls()
    assert moved(gpu, 10_000)
    assert controls().fakeBatchCalls() - before == 3  # 4096 + 4096 + 1808


def test_where_copies_cannot_be_batched_they_are_made_one_by_one(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    calls, copies = controls().fakeBatchCalls(), controls().fakeCopies()
    controls().fakeBatches(0)
    assert moved(gpu, 300)
    assert caplog.messages == ["cuMemcpyBatchAsync: CUDA_ERROR_NOT_SUPPORTED; copying one by one from now on"]
    controls().fakeBatches(1)
    assert moved(gpu, 300)  # having been told once it does not ask again
    assert (controls().fakeBatchCalls() - calls, controls().fakeCopies() - copies) == (0, 600)


def test_memory_of_the_processor_may_be_one_side(gpu: Gpu) -> None:
    tensor, here = FakeTensor(4096), np.arange(4096, dtype=np.uint8)
    gpu.spans.add(tensor.data_ptr(), tensor.nbytes)
    targets, sources = (np.array([at], dtype=np.uint64) for at in (tensor.data_ptr(), here.ctypes.data))
    calls = controls().fakeBatchCalls()
    assert gpu.copy(targets, sources, np.array([4096]), bytearray(1)) == 1
    assert np.array_equal(tensor.view(), here)
    assert controls().fakeBatchCalls() == calls


def test_a_copy_that_is_stopped_ends_between_two_batches_and_says_how_far_it_came(gpu: Gpu) -> None:
    tensor = FakeTensor(4096)
    here = np.full(10_000, tensor.data_ptr(), dtype=np.uint64)
    assert gpu.copy(here, here, np.full(10_000, 1, dtype=np.int64), bytearray([1])) == 0


@pytest.mark.parametrize("function", ["cuMemcpyAsync", "cuEventRecord", "cuEventSynchronize"])
def test_a_call_that_fails_is_told_when_nothing_is_on_its_way_any_more(gpu: Gpu, function: str) -> None:
    controls().fakeBatches(0)
    controls().fakeDelay(200)
    source, target = FakeTensor(4096), FakeTensor(4096)
    source.view()[:] = 7
    steps = np.arange(8, dtype=np.uint64)
    here, there = steps + np.uint64(target.data_ptr()), steps + np.uint64(source.data_ptr())
    if function == "cuMemcpyAsync":  # the fifth leaves the allocation
        error = "cuMemcpyAsync: CUDA_ERROR_INVALID_VALUE"
        there[4] = source.data_ptr() + source.nbytes + 512 - 1
        sizes = np.full(8, 2, dtype=np.int64)
    else:
        fail_next(function, 700)
        error, sizes = f"{function}: CUDA_ERROR_ILLEGAL_ADDRESS", np.full(8, 2, dtype=np.int64)
    with pytest.raises(CudaError, match=error):
        gpu.copy(here, there, sizes, bytearray(1))
    held = target.view().copy()
    assert held[:4].all()
    assert moved(gpu, 10)  # behind it in the stream
    assert np.array_equal(target.view(), held)


def test_a_pool_without_torch_holds_what_was_brought_there() -> None:
    pool = GpuPool(fake_driver(), 4096)
    content = np.arange(1000, dtype=np.uint8)
    pool.write(content, offset=96)
    assert np.array_equal(pool.read(96, 1000), content)
    assert pool.read().nbytes == 4096
    pool.close()
