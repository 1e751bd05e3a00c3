"""Transport verbs over real RDMA verbs, in guests with Soft-RoCE: the part of ``rdma_guest/run_suite.sh`` that is short
enough for every run. Skipped where the guests' kernel has not been prepared; ``run_suite.sh`` prepares it and runs all.
"""

import subprocess
import sys
from pathlib import Path

import pytest

GUEST = Path(__file__).with_name("rdma_guest")

pytestmark = pytest.mark.timeout(600)


def run_suite(*arguments: str) -> str:
    """What the script prints. Skips if the guest has not been prepared."""
    command = [str(GUEST / "run_suite.sh"), "--prepared", "--python", sys.executable, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=560)
    if done.returncode == 77:
        pytest.skip(
            f"RDMA is NOT tested: {done.stderr.strip()}; 'tests/rdma_guest/run_suite.sh --python {sys.executable}' "
            "prepares a kernel with Soft-RoCE (4 minutes, once) and runs all of it"
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def test_in_one_guest_the_transport_suite_passes_and_real_workers_give_the_models_tokens() -> None:
    printed = run_suite(
        "--only",
        "one",
        "--",
        "tests/test_transport_conformance.py",
        "tests/test_transport_processes.py",
        "tests/test_real_processes.py",
        "-k",
        "conformance or killed or read_from or pull-verbs",
    )
    assert "skipped" not in printed, printed
    assert " passed" in printed, printed


def test_the_readmes_recipe_for_a_real_cluster_leads_to_a_device_that_opens() -> None:
    printed = run_suite("--only", "recipe")
    assert "+ ln -s /usr/lib/python3/dist-packages/pyverbs" in printed
    assert "\ntransport verbs can be used here: rxe0 port 1" in printed, printed


def test_two_linked_guests_read_and_write_each_other_and_notice_a_pulled_cable() -> None:
    printed = run_suite("--only", "two")
    assert "[1] initiator: blocks arrived where they belong, and the owner's silence was told" in printed


def test_a_process_that_the_guests_kernel_ends_for_its_mappings_is_explained() -> None:
    """Pages touched at random lie scattered in the guest's memory: each is a mapping of this machine."""
    pages = 100_000
    most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    if most >= pages:
        pytest.skip(f"this machine allows {most} mappings: more than a guest can be made to need quickly")
    check = subprocess.run([str(GUEST / "prepare.sh"), "--check"], check=False, capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"RDMA is NOT tested: {check.stderr.strip()}")
    touch = f"import mmap, random; m = mmap.mmap(-1, {pages} * 4096); p = list(range({pages})); random.shuffle(p)"
    touch += "\nfor i in p: m[i * 4096] = 1"
    command = [str(GUEST / "run_in_guest.sh"), "--timeout", "120", "--", sys.executable, "-c", touch]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)
    assert done.returncode in (-11, 139), done
    assert f"needed more mappings of memory than this machine allows, {most}; " in done.stderr
