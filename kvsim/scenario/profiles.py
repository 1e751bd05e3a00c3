"""Profile files, read and checked, and what a scenario takes from them.

A pool says ``profile: FILE``, or ``profile: {file: FILE, ...}`` with changes to it; the part of the file that a
simulation uses then stands there, each value with its place in the file. ``nic: NAME`` may name one of the profile's
transports, and ``nic: {file: FILE}`` a link profile, whose key ``nic`` holds a NIC. It must not know what the numbers
mean.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from pydantic import ValidationError

from kvsim.errors import KvsimError, Problem
from kvsim.profile.fields import WorkerProfile
from kvsim.scenario.merge import expand_preset, merge
from kvsim.scenario.problems import Report, in_order
from kvsim.scenario.tree import Node, found, problem_at, read_file

if TYPE_CHECKING:
    from kvsim.profile.file_fields import ProfileFile


class ProfileError(KvsimError):
    """A profile file cannot be used. Holds every problem that was found, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems, "a ProfileError without a problem"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def read_profile(path: str | Path) -> "ProfileFile":
    """Read a profile file. Raises ProfileError with everything that is wrong."""
    read = _read(str(path))
    if read.profile is None:
        raise ProfileError(in_order(read.problems))
    return read.profile


class _Read(msgspec.Struct, frozen=True):
    """A profile file; without ``profile`` it has problems."""

    tree: Node | None
    profile: "ProfileFile | None"
    problems: tuple[Problem, ...]


def _read(path: str) -> _Read:
    from kvsim.profile.file_fields import ProfileFile  # noqa: PLC0415  # most scenarios have no profile

    tree, problems = read_file(path, "profile")
    if tree is None or problems:
        return _Read(tree, None, tuple(problems))
    if tree.mapping is None:
        message = f"found {found(tree.plain())}, expected a mapping"
        return _Read(tree, None, (problem_at(tree.place, "", message),))
    report = Report(tree)
    try:
        return _Read(tree, ProfileFile.model_validate(tree.plain()), ())
    except ValidationError as error:
        report.add_validation(error, ProfileFile)
        return _Read(tree, None, tuple(report.problems))


class ProfileFiles:
    """The files that one scenario names, each read once. Their paths may be relative to ``directory``. ``nics`` are the
    fields of the shipped NICs by name."""

    def __init__(self, directory: Path, nics: Mapping[str, Mapping[str, object]]) -> None:
        self._directory = directory
        self._nics = nics
        self._read: dict[str, _Read] = {}

    def expand(self, tree: Node) -> tuple[Node, list[Problem]]:
        """``tree`` with the profiles of its pools in place, and everything that is wrong with them."""
        workers = (tree.mapping or {}).get("workers")
        if workers is None or workers.mapping is None:
            return tree, []
        problems: list[Problem] = []
        pools = {name: self._pool(pool, f"workers.{name}.", problems) for name, pool in workers.mapping.items()}
        return replace(tree, value={**(tree.mapping or {}), "workers": replace(workers, value=pools)}), problems

    def _pool(self, pool: Node, prefix: str, problems: list[Problem]) -> Node:
        if pool.mapping is None:
            return pool
        children = dict(pool.mapping)
        transports: dict[str, dict[str, object]] = {}
        profile = children.get("profile")
        if profile is not None and _named_file(profile) is not None:
            children["profile"], transports = self._profile(profile, prefix + "profile", problems)
        nic = children.get("nic")
        if nic is not None and _link_file(nic) is not None:
            children["nic"] = self._link(nic, prefix + "nic", problems)
        elif nic is not None and transports:
            children["nic"] = expand_preset(nic, prefix + "nic", {**transports, **self._nics}, problems)
        return replace(pool, value=children)

    def _profile(self, node: Node, key: str, problems: list[Problem]) -> tuple[Node, dict[str, dict[str, object]]]:
        """What a pool takes from its profile, and the transports that it may name."""
        name = _named_file(node)
        assert name is not None, "a profile without a file"
        path = self._find(name, key, problems)
        if path is None:
            return node, {}
        read = self._read.get(path)
        if read is None:
            read = self._read[path] = _read(path)
        problems.extend(read.problems)
        if read.profile is None or read.tree is None or read.tree.mapping is None:
            return node, {}
        taken = {key: child for key, child in read.tree.mapping.items() if key in WorkerProfile.model_fields}
        taken.setdefault("name", Node(Path(path).stem, name.place, name.key_place))
        own = {key: child for key, child in (node.mapping or {}).items() if key != "file"}
        merged = merge(Node(taken, name.place, node.key_place), Node(own, node.place, node.key_place))
        links = read.tree.mapping.get("transports")
        transports = (links.plain() if links is not None else None) or {}
        return merged, {link: {"name": link, **fields} for link, fields in transports.items()}

    def _link(self, node: Node, key: str, problems: list[Problem]) -> Node:
        """The NIC of a link profile, with the changes that stand beside its file's name."""
        name = _link_file(node)
        assert name is not None, "a link profile without a file"
        path = self._find(name, key, problems)
        if path is None:
            return node
        tree, wrong = read_file(path, "link profile")
        problems.extend(wrong)
        nic = (tree.mapping or {}).get("nic") if tree is not None else None
        if tree is None or wrong:
            return node
        if nic is None or nic.mapping is None:
            problems.append(problem_at(tree.place, "nic", "missing, expected the mapping of a NIC"))
            return node
        own = {key: child for key, child in (node.mapping or {}).items() if key != "file"}
        return merge(Node(nic.mapping, name.place, node.key_place), Node(own, node.place, node.key_place))

    def _find(self, name: Node, key: str, problems: list[Problem]) -> str | None:
        """The file as it can be opened from the working directory: as written, or relative to the scenario's folder."""
        if not isinstance(name.value, str):
            problems.append(problem_at(name.place, key, f"found {found(name.plain())}, expected the name of a file"))
            return None
        for candidate in (Path(name.value), self._directory / name.value):
            if candidate.is_file():
                return str(candidate)
        message = f"found no file '{name.value}', expected a profile; 'kvsim calibrate' writes one"
        problems.append(problem_at(name.place, key, message))
        return None


def _named_file(profile: Node) -> Node | None:
    """The node with the name of the file; None for a profile that stands in the scenario itself."""
    if isinstance(profile.value, str):
        return profile
    return profile.mapping.get("file") if profile.mapping is not None else None


def _link_file(nic: Node) -> Node | None:
    return nic.mapping.get("file") if nic.mapping is not None else None
