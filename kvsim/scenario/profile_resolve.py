"""What pools take from their profiles, and the devices that they share: checks across keys, and resolved values.

It must not know files.
"""

from msgspec.structs import replace

from kvsim.presets.fields import ModelFields
from kvsim.scenario.merge import nearest
from kvsim.scenario.problems import Report
from kvsim.scenario.schema import Document, Pool
from kvsim.sim.hardware import AllReduceTimes, DeviceSpec, GpuSpec

HANDSHAKE_NS = 50_000
"""Of a two-sided transfer where neither scenario nor profile says it: an estimate for a rendezvous in Python."""

_NOT_COMPARED = ("name", "context_tokens_max")  # of a model: they do not change what a step costs


def check_profiles(document: Document, report: Report) -> None:
    """Every pool has durations of steps, and those of a profile are of this model and this kind of worker."""
    for name, pool in document.workers.items():
        path = ["workers", name]
        profile = pool.profile
        steps = profile is not None and (profile.steps is not None or profile.layers is not None)
        if pool.gpu is None and not steps:
            expected = "a preset's name or a mapping, as no profile of the pool has steps"
            report.add([*path, "gpu"], f"found none, expected {expected}")
        if steps:
            _check_measured(path, pool, document.model, report)
        if pool.gpu is None and pool.kv_blocks is None and pool.kv_memory is None:
            report.add([*path, "kv_blocks"], "missing, expected this key or kv_memory, as gpu is none")
        if profile is not None and profile.layers is not None and pool.gpu is None and pool.tensor_parallel > 1:
            report.add(
                [*path, "gpu"], "found none, expected a GPU: its all-reduces come on top of the profile's layers"
            )
        packs = pool.gpu is not None or (pool.profile is not None and pool.profile.message.pack_rate is not None)
        if document.transfer.mode == "message" and not packs:
            expected = "message.pack_rate for transfer.mode message, as gpu is none"
            report.add([*path, "profile"], f"found a profile without it, expected {expected}")


def _check_measured(path: list[str], pool: Pool, model: ModelFields, report: Report) -> None:
    assert pool.profile is not None, path
    profile = pool.profile
    assert profile.model is not None, "steps without a model passed their schema"
    measured, wanted = profile.model.model_dump(), model.model_dump()
    differences = [
        f"{field} {found} instead of {wanted[field]}"
        for field, found in measured.items()
        if field not in _NOT_COMPARED and found != wanted[field]
    ]
    if differences:
        steps = f"steps of {profile.model.name} ({', '.join(differences)})"
        report.add([*path, "profile"], f"found {steps}, expected those of the scenario's model {model.name}")
    if profile.tensor_parallel != pool.tensor_parallel:
        expected = f"{profile.tensor_parallel}, as with the steps of its profile"
        report.add([*path, "tensor_parallel"], f"found {pool.tensor_parallel}, expected {expected}")


def gpu_of(pool: Pool) -> GpuSpec | None:
    """The pool's GPU, with the all-reduces that its profile has measured."""
    if pool.gpu is None:
        return None
    gpu = pool.gpu.value()
    if pool.profile is None or not pool.profile.all_reduce:
        return gpu
    measured = tuple(AllReduceTimes(one.ranks, one.message_times()) for one in pool.profile.all_reduce)
    return replace(gpu, all_reduce=measured)


def check_devices(document: Document, report: Report) -> None:
    """Every device that a pool names is there, and how it is shared is known."""
    known = document.devices
    for name, pool in document.workers.items():
        if pool.device is not None and pool.device not in known:
            expected = f"one of devices: {', '.join(known)}" if known else "none, as devices is empty"
            message = f"found '{pool.device}'{nearest(pool.device, known)}, expected {expected}"
            report.add(["workers", name, "device"], message)
    for device, fields in known.items():
        measured = _slowdowns(document, device)
        if fields.slowdown is not None or not _pools_on(document, device):
            continue
        if not measured:
            message = "missing, expected this key, or a profile with slowdown in a pool on the device"
            report.add(["devices", device, "slowdown"], message)
        elif len(set(measured.values())) > 1:
            pools = ", ".join(measured)
            message = f"missing, expected this key, as the profiles of its pools differ in it: {pools}"
            report.add(["devices", device, "slowdown"], message)


def devices_of(document: Document) -> tuple[DeviceSpec, ...]:
    """The devices that workers share."""
    devices = []
    for name, device in document.devices.items():
        if not _pools_on(document, name):
            continue
        measured = list(_slowdowns(document, name).values())
        slowdown = tuple(device.slowdown) if device.slowdown is not None else measured[0]
        devices.append(DeviceSpec(name, slowdown, device.copies))
    return tuple(devices)


def decision_ns(document: Document) -> int:
    """From a report to the commands that answer it: given, or the largest that was measured."""
    given = document.scheduling.decision
    if given is not None:
        return given
    return max([0, *(pool.profile.host.decision for pool in document.workers.values() if pool.profile is not None)])


def handshake_ns(document: Document) -> int:
    """The software time of a rendezvous: given, or the largest that was measured, or an estimate."""
    given = document.transfer.message.handshake
    if given is not None:
        return given
    profiles = [pool.profile for pool in document.workers.values() if pool.profile is not None]
    measured = [profile.message.handshake for profile in profiles if profile.message.handshake is not None]
    return max(measured, default=HANDSHAKE_NS)


def _pools_on(document: Document, device: str) -> list[str]:
    return [name for name, pool in document.workers.items() if pool.device == device]


def _slowdowns(document: Document, device: str) -> dict[str, tuple[float, ...]]:
    """What the profiles of the pools on a device say, by pool."""
    found = {}
    for name in _pools_on(document, device):
        profile = document.workers[name].profile
        if profile is not None and profile.slowdown is not None:
            found[name] = tuple(profile.slowdown)
    return found
