"""Typed access to the entries of one JSON object that collects every problem instead of stopping at the first.

It must not know what the entries mean: ``config_file`` does.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from backends.model.errors import problem
from kvsim.errors import Problem


class Fields:
    """The entries of a JSON object read from ``place``. A bad or missing one is noted and replaced by a harmless value.

    ``null`` counts as missing, as it does in Hugging Face configurations.
    """

    def __init__(self, place: str, values: Mapping[str, object], problems: list[Problem], prefix: str = "") -> None:
        self._place = place
        self._values = values
        self._problems = problems
        self._prefix = prefix

    def wrong(self, key: str, message: str) -> None:
        """Note a problem of the entry ``key``."""
        self._problems.append(problem(self._place, self._prefix + key, message))

    def sound(self, *keys: str) -> bool:
        """Whether no problem of these entries was noted: only then is it worth comparing them."""
        wrong = {(noted.file, noted.key) for noted in self._problems}
        return not any((self._place, self._prefix + key) in wrong for key in keys)

    def has(self, key: str) -> bool:
        """Whether the entry is there and not null."""
        return self._values.get(key) is not None

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer of at least ``least``. Without a default the entry is required."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                self.wrong(key, f"missing; an integer of at least {least} is required")
            return least if default is None else default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.wrong(key, f"found {value!r}; an integer of at least {least} is required")
            return least
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above zero. Without a default the entry is required."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                self.wrong(key, "missing; a number above 0 is required")
            return 1.0 if default is None else default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.wrong(key, f"found {value!r}; a number above 0 is required")
            return 1.0
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, f"found {value!r}; true or false is required")
            return default
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.wrong(key, f"found {value!r}; a string is required")
            return default
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; missing means empty."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong(key, f"found {value!r}; a list of strings is required")
            return ()
        return tuple(value)

    def ids(self, key: str, below: int) -> tuple[int, ...]:
        """One token id or a list of them, each in [0, below); missing means none."""
        value = self._values.get(key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        if all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < below for item in items):
            return tuple(items)
        self.wrong(key, f"found {value!r}; a token id from 0 to {below - 1} or a list of them is required")
        return ()

    def table(self, key: str) -> "Fields":
        """A nested object; missing means empty."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            self.wrong(key, f"found {value!r}; an object is required")
            value = None
        return Fields(self._place, value or {}, self._problems, f"{self._prefix}{key}.")


def read_object(path: Path, problems: list[Problem]) -> dict[str, object] | None:
    """The JSON object in a file; None with a problem noted if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        problems.append(problem(str(path), "", "no such file; give the folder of a Hugging Face model"))
        return None
    except (OSError, ValueError) as error:  # ValueError: not JSON, or not UTF-8
        problems.append(problem(str(path), "", f"cannot be read as JSON: {error}"))
        return None
    if not isinstance(value, dict):
        problems.append(problem(str(path), "", "must hold a JSON object"))
        return None
    return value
