"""The process of the command ``kvsim`` and of ``python -m kvsim``: what makes it start, run and end quickly.

None of this may touch a notebook or a program that uses kvsim as a library, so it is not done where things are imported
but here, before the rest is. It must not know any verb.
"""

import gc
import os


def main() -> None:
    """Entry point of the ``kvsim`` command."""
    # What is imported stays, and a run makes hardly any cycles: looking for garbage often is in vain.
    gc.set_threshold(500_000, 10, 10)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no linear algebra here, and starting threads costs CPU time
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # they are looked for among all installed packages
    from kvsim.cli import main as run_command  # noqa: PLC0415  # after the above

    try:
        run_command()
    finally:
        gc.freeze()  # the interpreter would look through all that is left once more, and it ends with the process


if __name__ == "__main__":
    main()
