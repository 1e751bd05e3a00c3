"""Real workers for a scenario: ``calibrate`` measures this machine, ``validate`` holds a simulation against reality.

The one place beside the command line where the two worlds meet: ``backends`` is imported when it is needed, as it wants
torch and ZeroMQ, which ``pip install "kvsim[engine]"`` brings. This module must not know how either world works.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.core.links import NS_PER_S
from kvsim.errors import KvsimError
from kvsim.presets.fields import ModelFields
from kvsim.scenario import Scenario, Variant, read_profile, with_changes
from kvsim.scenario.real_schema import Real
from kvsim.scenario.tree import Node
from kvsim.sim.driver import OUTPUT_TOKENS_UNLIMITED, Observer
from kvsim.validation import RealRun, ValidationFolder, validate_scenario
from kvsim.validation.conduct import Tell
from kvsim.validation.unreal import refuse_unreal
from kvsim.version import VERSION
from kvsim.workload import Workload

if TYPE_CHECKING:
    from backends.calibrate.plan import CalibrationPlan
    from backends.worker.model_source import ModelSource

NEEDED = {"torch": "torch", "zmq": "pyzmq", "safetensors": "safetensors"}
PROFILES = Path("profiles")
SERVE_TIMEOUT_S = 300.0
"""How long after the last arrival all requests must be over."""

Say = Callable[[str], None]


class RealError(KvsimError):
    """A scenario that real workers cannot serve, or a machine without what they need."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A profile file, and whether it was measured now or found."""

    path: Path
    measured: bool


def calibrate(
    scenario: Scenario,
    profiles: Path = PROFILES,
    *,
    transports: Sequence[str] = (),
    fresh: bool = False,
    plan: "CalibrationPlan | None" = None,
    say: Say = lambda _: None,
) -> Calibrated:
    """Measure what the section ``real`` of a scenario names, on this machine: steps, messages, and these transports,
    or those that the scenario's NICs name. The profile is kept in ``profiles`` under a name that stands for model,
    machine and versions. It is found there the next time, unless ``fresh`` or where it lacks a transport; then all that
    it had is measured anew. Raises KvsimError."""
    _require_engine()
    from backends.calibrate.measure import Machine  # noqa: PLC0415
    from backends.calibrate.plan import CalibrationPlan  # noqa: PLC0415
    from backends.validate.serve import limits_of  # noqa: PLC0415
    from kvsim.profile.machine import MachineFacts, machine_profile  # noqa: PLC0415
    from kvsim.profile.write import write_profile  # noqa: PLC0415

    refuse_unreal(scenario)
    real, source = real_of(scenario), model_source(scenario)
    chosen = (CalibrationPlan() if plan is None else plan).within(source.config().context_tokens_max)
    wanted = set(transports or _transports_used(scenario, real))
    unknown = sorted(wanted.difference(_transports()))
    if unknown:
        raise RealError(f"found transport {', '.join(unknown)}, expected {', '.join(_transports())}")
    block_tokens = scenario.variants[0].cluster.kv.block_tokens
    machine, versions = machine_text(real), _versions()
    asked = real.model_dump(exclude={"start_timeout"})  # how long to wait changes no measurement
    facts = [source.fingerprint(), asked, machine, versions, block_tokens, asdict(chosen)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{Path(real.model).name}-{real.dtype}-{real.device.replace(':', '')}"
    path = profiles / f"{name}-{digest}.yaml"
    if path.is_file() and not fresh:
        known = set(read_profile(path).transports)
        if wanted <= known:
            return Calibrated(path, measured=False)
        wanted |= known
    limits = limits_of(real.start_timeout / NS_PER_S)
    machine_here = Machine(source, real.device, real.threads, block_tokens, chosen, limits, real.attention)
    measured = machine_here.measure(sorted(wanted), say)
    described = MachineFacts(
        name=name,
        origin=f"kvsim calibrate with the model {real.model} of scenario {scenario.name}",
        machine=machine,
        engine=f"kvsim workers, {real.dtype}, {real.device}, {real.threads} threads",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions,
        model=ModelFields.model_validate(_model_of(scenario)),
    )
    profiles.mkdir(parents=True, exist_ok=True)
    write_profile(path, machine_profile(measured, described))
    return Calibrated(path, measured=True)


def validate(
    scenario: Scenario,
    out: Path | str,
    profile: Path,
    *,
    again_max: int = 2,
    audit: bool = False,
    report: bool = True,
    tell: Tell = lambda _done, _total, _doing: None,
) -> ValidationFolder:
    """Serve a scenario with real workers of this machine and simulate the same with this profile, which takes the place
    of the pools' own; see ``validate_scenario``. Raises KvsimError."""
    _require_engine()
    refuse_unreal(scenario)
    real, source = real_of(scenario), model_source(scenario)
    changed = with_profile(scenario, profile)

    def serve(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
        from backends.validate.serve import limits_of, serve_load  # noqa: PLC0415
        from backends.worker.settings import WorkerSettings  # noqa: PLC0415

        transport = transport_of(variant)
        settings = WorkerSettings(
            variant.cluster, source, transport, device=real.device, threads=real.threads, attention=real.attention
        )
        limit = workload.output_tokens_max or OUTPUT_TOKENS_UNLIMITED
        columns = (workload.arrival_ns, workload.prompt_tokens, workload.output_tokens)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        requests = [(at_ns, prompt, output, limit) for at_ns, prompt, output in rows]
        timeout_s = requests[-1][0] / 1e9 + SERVE_TIMEOUT_S
        limits = limits_of(real.start_timeout / NS_PER_S)
        served = serve_load(settings, requests, observers, timeout_s, scenario.seed, workload.labels, limits)
        return RealRun(served.decision_ns, served.other_cores, served.start_s)

    return validate_scenario(
        changed, out, serve, profile=profile, again_max=again_max, audit=audit, report=report, tell=tell
    )


def with_transport(scenario: Scenario, transport: str) -> Scenario:
    """The scenario with this transport in all pools that a variant does not give another. Raises KvsimError."""
    if transport not in _transports():
        raise RealError(f"found transport '{transport}', expected one of {', '.join(_transports())}")
    try:
        return with_changes(scenario, [f"workers.{pool}.nic={transport}" for pool in _pools(scenario)])
    except KvsimError:
        # its profile was made without this transport: the pools keep their links' figures until one is measured
        return with_changes(scenario, [_renamed(pool, node, transport) for pool, node in _pools(scenario).items()])


def with_profile(scenario: Scenario, profile: Path) -> Scenario:
    """The scenario with this profile in all pools: its steps, its transports under the names of the pools' NICs, and
    its slowdown on every device. Raises KvsimError."""
    quoted = json.dumps(str(profile.resolve()))
    measured = read_profile(profile)
    changes = []
    for pool, node in _pools(scenario).items():
        changes.append(f"workers.{pool}.profile={quoted}")
        name = _nic(node)
        if name in measured.transports:
            changes.append(f"workers.{pool}.nic={name}")
    if measured.slowdown is not None:
        devices = (scenario.source.tree.mapping or {}).get("devices")
        names = list(devices.mapping or {}) if devices is not None else []
        changes += [f"devices.{device}.slowdown=null" for device in names]
    return with_changes(scenario, changes)


def real_of(scenario: Scenario) -> Real:
    """The section ``real``. Raises RealError if there is none."""
    if "real" not in scenario.document:
        raise RealError(
            f"{scenario.path}: real: missing, expected the model that real workers compute with: real: {{model: small}}"
        )
    return Real.model_validate(scenario.document["real"])


def model_source(scenario: Scenario) -> "ModelSource":
    """The model of the real workers. Raises KvsimError if there is none or the scenario describes another."""
    from backends.worker.model_source import DTYPE_BYTES, ModelSource  # noqa: PLC0415

    real = real_of(scenario)
    source = ModelSource(real.model, real.seed, real.dtype)
    config, wanted = source.config(), ModelFields.model_validate(_model_of(scenario))
    loaded = {
        "layers": config.layers,
        "hidden": config.hidden,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate": config.intermediate,
        "vocabulary": config.vocabulary,
        "dtype_bytes": DTYPE_BYTES[real.dtype],
        "kv_dtype_bytes": DTYPE_BYTES[real.dtype],
    }
    said = wanted.model_dump()
    wrong = [f"model.{key}: found {said[key]}, expected {value}" for key, value in loaded.items() if said[key] != value]
    if wrong:
        raise RealError(f"{scenario.path}: real.model {real.model} is another model:\n  " + "\n  ".join(wrong))
    return source


def transport_of(variant: Variant) -> str:
    """What moves the bytes between the real workers of a variant: its NICs name it. Raises RealError."""
    mode = variant.cluster.policy.transfer_mode
    if mode == "colocated":
        return "shm"
    names = list(dict.fromkeys(worker.nic.name for worker in variant.hardware.workers))
    if len(names) != 1 or names[0] not in _transports():
        expected = f"one of {', '.join(_transports())}, the same in all pools"
        raise RealError(f"variant {variant.name}: nic: found {', '.join(names)}, expected {expected}")
    if (mode == "message") != (names[0] == "message"):
        raise RealError(f"variant {variant.name}: transport {names[0]} cannot serve transfer.mode {mode}")
    return names[0]


def machine_text(real: Real) -> str:
    """What this machine is, for readers and for the name of a profile."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    text = f"{cpu}, {len(os.sched_getaffinity(0))} cores, {platform.system()}"
    if real.device.startswith("cuda"):
        import torch  # noqa: PLC0415

        if not torch.cuda.is_available():
            raise RealError(
                f"real.device: found {real.device}, but torch {torch.__version__} finds no GPU here: nvidia-smi tells "
                "whether there is one, a torch built for CUDA uses it, real.device: cpu does without"
            )
        text += f", {torch.cuda.get_device_name(real.device)}"
    return text


# --- parts ---------------------------------------------------------------------------------------------------------


def _require_engine() -> None:
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise RealError(
            f'real workers need {", ".join(missing)}, which cannot be imported: pip install "kvsim[engine]"'
        )


def _versions() -> dict[str, str]:
    versions = {"kvsim": VERSION, "python": platform.python_version()}
    for package in NEEDED.values():
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _model_of(scenario: Scenario) -> object:
    model = scenario.document.get("model")
    if not isinstance(model, dict) or "layers" not in model:
        raise RealError(f"{scenario.path}: model: found one that differs between variants, expected the same in all")
    return model


def _pools(scenario: Scenario) -> Mapping[str, Node]:
    workers = (scenario.source.tree.mapping or {})["workers"]
    return workers.mapping or {}


def _nic(pool: Node) -> object:
    """The name of a pool's NIC, or None where it has none."""
    nic = (pool.mapping or {}).get("nic")
    name = nic.mapping.get("name") if nic is not None and nic.mapping is not None else nic
    return None if name is None else name.value


def _renamed(pool: str, node: Node, transport: str) -> str:
    """The change that calls a pool's NIC by the name of a transport and keeps its figures."""
    nic = (node.mapping or {}).get("nic")
    if nic is not None and nic.mapping is not None:
        return f"workers.{pool}.nic.name={transport}"
    return f"workers.{pool}.nic={{name: {transport}, preset: {_nic(node)}}}"


def _transports_used(scenario: Scenario, real: Real) -> list[str]:
    """Those that move KV. Colocated workers have one and move nothing; it is measured for the figures of their NICs,
    unless it does not reach the memory that they compute in."""
    on_cpu = real.device == "cpu"
    used = [variant for variant in scenario.variants if on_cpu or variant.cluster.policy.transfer_mode != "colocated"]
    return [transport_of(variant) for variant in used]


def _transports() -> tuple[str, ...]:
    from backends.worker.transports import TRANSPORTS  # noqa: PLC0415

    return TRANSPORTS
