"""What a user can do wrong with a model: one error type that lists every problem with its remedy.

It must not know torch: the driver reports these errors without importing it.
"""

from collections.abc import Sequence

from kvsim.errors import KvsimError, Problem


class ModelError(KvsimError):
    """A model folder, preset, kernel or sampling parameter that cannot be used. Holds every problem found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a ModelError without a problem"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["ModelError"], tuple[tuple[Problem, ...]]]:
        """Rebuild from the problems: an error of a worker process crosses to its parent."""
        return (ModelError, (self.problems,))


def problem(place: str, key: str, message: str) -> Problem:
    """A problem of a file without line numbers (JSON, safetensors) or of an argument."""
    return Problem(file=place, line=0, column=0, key=key, message=message)
