"""pyverbs of whatever version is installed, under the names that the rest of this package uses.

pyverbs belongs to rdma-core and must match the libibverbs that runs, so it comes from the distribution and not from
PyPI. Versions differ: constants are in ``pyverbs.enums`` up to 58 and in ``pyverbs.libibverbs_enums`` from 50 on, later
as members of enumerations. It has no type stubs, so its objects are ``Any`` here. This module must not know transfers.
"""

import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from backends.transport.port import TransportError

RECIPE = (
    "install the distribution's package (Debian, Ubuntu: apt install python3-pyverbs; Fedora: dnf install "
    "python3-pyverbs) and link it into a virtual environment of the same Python version (ln -s "
    "/usr/lib/python3/dist-packages/pyverbs VENV/lib/python3.N/site-packages/)"
)


@dataclass(frozen=True, slots=True)
class Library:
    """The classes of pyverbs that are used, and its constants."""

    context: Any
    pd: Any
    cq: Any
    channel: Any
    mr: Any
    dmabuf_mr: Any
    mw: Any
    mw_bind_info: Any
    qp: Any
    qp_ex: Any
    qp_cap: Any
    qp_init: Any
    qp_init_ex: Any
    qp_attr: Any
    gid: Any
    address: Any
    route: Any
    error: type[Exception]
    constants: tuple[ModuleType, ...]

    def constant(self, name: str) -> int:
        """The value of a constant of ``infiniband/verbs.h``, such as IBV_QPT_RC."""
        for module in self.constants:
            value = getattr(module, name, None)
            if value is not None:
                return int(value)
            for group in vars(module).values():  # enumerations, from 59 on
                member = getattr(group, "__members__", {}).get(name)
                if member is not None:
                    return int(member)
        raise TransportError(f"this pyverbs does not know {name}")

    def flags(self, *names: str) -> int:
        """Constants joined by "or"."""
        value = 0
        for name in names:
            value |= self.constant(name)
        return value


@cache
def load() -> Library:
    """pyverbs. Raises TransportError that says how to get it."""
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        parts = {name: import_module(f"pyverbs.{name}") for name in ("device", "pd", "cq", "mr", "qp", "addr")}
        error = import_module("pyverbs.pyverbs_error").PyverbsRDMAError
    except ImportError as problem:
        reason = "is not installed" if problem.name == "pyverbs" else f"cannot be loaded ({problem})"
        raise TransportError(f"transport verbs needs pyverbs, which {reason}: {RECIPE}") from None
    finally:  # it configures the program's logging when it is imported, which is not its business
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return Library(
        context=parts["device"].Context,
        pd=parts["pd"].PD,
        cq=parts["cq"].CQ,
        channel=parts["cq"].CompChannel,
        mr=parts["mr"].MR,
        dmabuf_mr=getattr(parts["mr"], "DmaBufMR", None),
        mw=parts["mr"].MW,
        mw_bind_info=parts["mr"].MWBindInfo,
        qp=parts["qp"].QP,
        qp_ex=parts["qp"].QPEx,
        qp_cap=parts["qp"].QPCap,
        qp_init=parts["qp"].QPInitAttr,
        qp_init_ex=parts["qp"].QPInitAttrEx,
        qp_attr=parts["qp"].QPAttr,
        gid=parts["addr"].GID,
        address=parts["addr"].AHAttr,
        route=parts["addr"].GlobalRoute,
        error=error,
        constants=constant_modules(),
    )


def constant_modules() -> tuple[ModuleType, ...]:
    """The modules that hold constants: one or two of the names that they have had."""
    found = []
    for name in ("pyverbs.libibverbs_enums", "pyverbs.enums"):
        try:
            found.append(import_module(name))
        except ImportError:
            continue
    if not found:
        raise TransportError("this pyverbs has neither libibverbs_enums nor enums")
    return tuple(found)
