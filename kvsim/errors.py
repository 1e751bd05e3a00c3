"""What a user did wrong, as exceptions that the command line prints as plain lines and answers with exit status 2.

KvsimError
├── ScenarioError   a scenario file, an override or a preset: every problem found, in one go
├── TraceError      a workload file that is missing or malformed, with its line
└── RunFolderError  a run folder that is missing, incomplete or of another version

Broken invariants are not here: they are assertions. Failures of the outside world are events of the core.
"""

import msgspec


class KvsimError(Exception):
    """Base of every error that the user can mend. ``str()`` of it is the whole message, without a traceback."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong at one place. ``line`` and ``column`` count from 1; 0 means there is no such place."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ScenarioError(KvsimError):
    """A scenario cannot be run. Holds every problem that was found, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems, "a ScenarioError without a problem"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class TraceError(KvsimError):
    """A trace file cannot be read. ``line`` counts from 1; 0 means the file as a whole."""

    def __init__(self, file: str, line: int, message: str) -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: {message}")
        self.file = file
        self.line = line
        self.message = message


class RunFolderError(KvsimError):
    """A folder is no run folder that this version can read."""
