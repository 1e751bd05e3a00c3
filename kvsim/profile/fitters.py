"""What ``kvsim profile fit`` does: reads measured times of any kind and fits a GPU's constants to them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from kvsim.errors import KvsimError
from kvsim.presets import load_gpus, load_models
from kvsim.profile.file_fields import ProfileFile
from kvsim.profile.fit_result import FitResult, fit_text
from kvsim.profile.kernel_tables import COLUMNS, least_seconds
from kvsim.profile.plausible import implausible
from kvsim.profile.serving_points import ServingPoint
from kvsim.profile_kinds import FITTED
from kvsim.sim.hardware import GpuSpec
from kvsim.units import exact_duration

if TYPE_CHECKING:
    import pandas as pd


class ProfileFitError(KvsimError):
    """Constants cannot be fitted to what was given."""


def fit_text_of(kind: str, path: Path, preset: str | None, where: Sequence[str] = ()) -> str:
    """The text of the file that ``kvsim profile fit`` writes: constants of a GPU, or of links. Raises ProfileFitError,
    or what the reading of a kind raises."""
    from kvsim.profile.fit_links import LINK_KINDS, fit_links  # noqa: PLC0415

    if kind not in LINK_KINDS:
        if preset is None and kind in FITTED:
            raise ProfileFitError(f"found no --gpu, which kind {kind} needs: the preset to start from")
        return fit_text(fit_gpu(kind, path, preset or "", where))
    if preset is not None or where:
        raise ProfileFitError(f"found {'--gpu' if preset is not None else '--where'}, which kind {kind} does not take")
    _check_there(kind, path)
    return fit_links(kind, path)


def fit_gpu(kind: str, path: Path, preset: str, where: Sequence[str] = ()) -> FitResult:
    """The constants of the GPU ``preset`` that fit best to what ``path`` holds. ``where`` restricts rows of kind
    serving: COLUMN=VALUE each. Raises ProfileFitError, or what the reading of a kind raises."""
    gpus = load_gpus()
    if kind not in FITTED:
        raise ProfileFitError(f"found kind {kind!r}{_near(kind, FITTED)}, expected one of {', '.join(FITTED)}")
    if preset not in gpus:
        raise ProfileFitError(f"found GPU {preset!r}{_near(preset, gpus)}, expected one of {', '.join(gpus)}")
    _check_there(kind, path)
    gpu = gpus[preset].value
    if kind == "serving":
        return _fit_serving(path, gpu, where)
    if where:
        raise ProfileFitError(f"found --where {where[0]}, which only kind serving takes")
    from kvsim.profile.fit_kernels import fit_kernels  # noqa: PLC0415

    return fit_kernels(_tables(kind, path, gpu), gpu, str(path))


def _check_there(kind: str, path: Path) -> None:
    if not path.exists():
        raise ProfileFitError(f"{path}: there is no such file or folder; {kind} reads a {FITTED[kind]}")


def steps_profile(path: Path, model: str, preset: str, tensor_parallel: int) -> ProfileFile:
    """The steps of the preset ``model`` composed of the kernel tables of a profile. Raises ProfileFitError."""
    from kvsim.profile.step_tables import steps_of  # noqa: PLC0415

    models, gpus = load_models(), load_gpus()
    for what, word, known in (("model", model, list(models)), ("GPU", preset, list(gpus))):
        if word not in known:
            raise ProfileFitError(f"found {what} {word!r}{_near(word, known)}, expected one of {', '.join(known)}")
    tables, origin = read_tables(path), _profile(path)
    fitted = steps_of(tables, models[model].value, gpus[preset].value, tensor_parallel)
    return ProfileFile.model_validate(
        {
            "kvsim_profile": 1,
            "name": f"{path.stem}-{model}-tp{tensor_parallel}",
            "origin": f"composed of {origin.origin}; the rest from the roofline of {preset}",
            "date": origin.date,
            "machine": origin.machine,
            "engine": origin.engine,
            "model": dict(models[model].fields),
            "tensor_parallel": tensor_parallel,
            "steps": fitted.steps,
            "host": {"between_steps": exact_duration(gpus[preset].value.step_ns)},
            "residuals": fitted.residuals,
            "notes": list(fitted.notes),
        }
    )


def _profile(path: Path) -> ProfileFile:
    try:
        return ProfileFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError, OSError) as error:
        raise ProfileFitError(f"{path}: no profile; 'kvsim profile show {path}' says what is wrong") from error


def _near(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _tables(kind: str, path: Path, gpu: GpuSpec) -> "Mapping[str, pd.DataFrame]":
    if kind == "vllm-kernels":
        from kvsim.profile.kernel_import import load  # noqa: PLC0415

        tables = load(path).tables
    elif kind == "layers":
        from kvsim.profile.layer_rows import load_layers  # noqa: PLC0415

        tables = load_layers(path)
    else:
        tables = read_tables(path)
    problems = [
        f"{path}: {problem}"
        for name, table in tables.items()
        if (problem := implausible(name, least_seconds(name, table, gpu), table["us"].to_numpy(dtype=float) / 1e6))
    ]
    if problems:
        raise ProfileFitError("\n".join(problems))
    return tables


def read_tables(path: Path) -> "dict[str, pd.DataFrame]":
    """The kernel tables of a profile file. Raises ProfileFitError where there are none or other columns."""
    import pandas as pd  # noqa: PLC0415

    profile = _profile(path)
    tables = {}
    for name, described in profile.tables.items():
        if name not in COLUMNS:
            continue
        file = path.parent / described.file
        if not file.is_file():
            raise ProfileFitError(f"{path}: found no file {file}, expected the table {name} beside the profile")
        tables[name] = pd.read_parquet(file)
        missing = [column for column in COLUMNS[name] if column not in tables[name].columns]
        if missing:
            raise ProfileFitError(
                f"{file}: columns {', '.join(missing)} are missing, expected {', '.join(COLUMNS[name])}"
            )
    if not tables:
        raise ProfileFitError(f"{path}: found no table of kernels, expected one of {', '.join(COLUMNS)}")
    return tables


def _fit_serving(path: Path, gpu: GpuSpec, where: Sequence[str]) -> FitResult:
    from dataclasses import replace  # noqa: PLC0415

    from kvsim.profile.fit_serving import fit_serving  # noqa: PLC0415
    from kvsim.profile.serving_points import read_serving  # noqa: PLC0415

    points, notes = read_serving(path, gpu)
    for condition in where:
        points = [point for point in points if _meets(point, condition)]
    for kind in ("prompt", "token"):
        if sum(point.kind == kind for point in points) < 2:
            raise ProfileFitError(f"{path}: found fewer than 2 {kind} times {' '.join(where)}, expected more to fit to")
    result = fit_serving(points, gpu, f"{path} {' '.join(where)}".strip())
    return replace(result, notes=tuple(notes))


def _meets(point: ServingPoint, condition: str) -> bool:
    column, equals, value = condition.partition("=")
    fields = ("model", "hardware", "tensor_parallel", "prompt_tokens", "batch", "output_tokens")
    if not equals or column not in fields:
        raise ProfileFitError(f"found --where {condition!r}, expected COLUMN=VALUE with one of {', '.join(fields)}")
    return str(getattr(point, column)) == value
