"""Real workers as Ray actors: the whole service passes the very tests that it passes with processes.

Ray runs where nobody else can reach it, so those tests run in a process of their own.
"""

import re
from pathlib import Path

import pytest
from test_sweep_ray import needs_ray, run_isolated
from worlds import MODES

pytest.importorskip("torch", reason="torch is not installed: real workers are NOT tested; pip install 'kvsim[engine]'")
pytest.importorskip(
    "transformers", reason="transformers is not installed: token equality is NOT tested; pip install 'kvsim[hf]'"
)

PROCESSES = Path(__file__).parent / "test_real_processes.py"
TIMEOUT_S = 900.0


@needs_ray
@pytest.mark.timeout(TIMEOUT_S + 20.0)
def test_workers_on_ray_pass_the_tests_of_processes_in_every_mode(tmp_path: Path) -> None:
    arguments = ["-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", "-o", "timeout=300", "--launcher", "ray"]
    result = run_isolated(tmp_path, *arguments, str(PROCESSES), timeout_s=TIMEOUT_S)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    passed = re.findall(r"::(\S+) PASSED", result.stdout)
    equal = [name for name in passed if name.startswith("test_processes_give_the_tokens_of_transformers")]
    assert {mode for mode in MODES if any(f"[{mode}-" in name for name in equal)} == set(MODES)
    assert "test_a_killed_and_a_hung_decode_worker_lose_no_request_and_one_comes_back" in passed
