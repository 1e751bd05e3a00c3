"""The parts of the build that pyproject.toml cannot say: what is compiled, and that all of it is optional.

The scheduler core and the simulator are compiled from the very Python sources by mypyc, which about halves what a
simulation costs; the same modules run interpreted where that is not wanted (``KVSIM_COMPILE=0``), in an editable
install (where a change must show at once), and where there is no C compiler. One small C file copies scattered blocks;
without it ``backends.transport.copying`` does so in plain Python.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

MYPY_OPTIONS = ("--follow-imports=silent", "--ignore-missing-imports", "--no-warn-unused-ignores")
"""What the compiled modules import is not checked here: the stubs of its libraries are no part of a build."""

INTERPRETED = ("__init__", "message_base", "messages", "mode_messages", "worker_messages", "cluster")
"""Their msgspec structs are compiled code already."""

DIRECT_CALLS = ["-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt"]
"""Nobody replaces our functions from outside, so compiled code need not look them up to call itself."""

HOT_MODULES = (
    *(path for path in sorted(Path("kvsim/core").glob("*.py")) if path.stem not in INTERPRETED),
    *(
        Path(f"kvsim/sim/{name}.py")
        for name in (
            "clock",
            "collectives",
            "compute",
            "decoding",
            "driver",
            "fairshare",
            "flow",
            "gpu",
            "kernels",
            "network",
            "steps",
            "transfers",
            "truth",
        )
    ),
    Path("kvsim/metrics/collector.py"),
    Path("kvsim/metrics/log.py"),
)


def compiled_modules() -> list[Extension]:
    """The hot modules as extensions; none where they are not wanted or mypyc is not at hand."""
    builds = bool({"bdist_wheel", "build_ext"} & set(sys.argv))
    if not builds or os.environ.get("KVSIM_COMPILE", "1") == "0":
        return []
    try:
        from mypyc.build import mypycify  # noqa: PLC0415  # it is not there in every build
    except ImportError:
        return []
    try:
        extensions = mypycify([*MYPY_OPTIONS, *map(str, HOT_MODULES)], opt_level="1", debug_level="0")
    except SystemExit as refusal:  # its way of saying that it cannot compile something
        sys.stderr.write(f"kvsim will run interpreted: mypyc says {refusal}\n")
        return []
    for extension in extensions:
        extension.optional = True
        if os.name == "posix":
            extension.extra_compile_args += DIRECT_CALLS
    return extensions


setup(
    ext_modules=[
        Extension(
            "backends.transport._copy",
            sources=["backends/transport/_copy.c"],
            extra_compile_args=["-O2"],
            py_limited_api=True,
            optional=True,
        ),
        *compiled_modules(),
    ]
)
