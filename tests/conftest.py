"""Options and fixtures that several test files share."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("kvsim", deadline=None)  # how long an example takes says more of the machine than of the code
settings.load_profile("kvsim")


def pytest_configure() -> None:
    """Where the tests are a background job of a shell, Ctrl-C is ignored, and by every program that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write stories and golden files anew from what the code does now; read the diff before you commit it",
    )
    parser.addoption(
        "--launcher",
        choices=("local", "ray"),
        default="local",
        help="what starts the real workers of test_real_processes.py: processes of this machine, or actors of a Ray",
    )
    parser.addoption(
        "--known-answers",
        metavar="FOLDER",
        help="model and answers of transformers for test_real_processes.py, as rdma_guest/known_answers.py writes them",
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether expected outputs are to be written anew."""
    return bool(request.config.getoption("--rewrite"))
