"""plan.json and the parameters file beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.files import write_together
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.plan import ParametersFile, Plan

PLAN, PARAMETERS = "plan.json", "parameters.npz"


def _parameters_name(plan: Path) -> str:
    """``parameters.npz`` beside ``plan.json``, ``mine.npz`` beside ``mine.json``."""
    return PARAMETERS if plan.name == PLAN else f"{plan.stem}.npz"


def read(path: Path) -> tuple[Plan, Parameters | None]:
    """A plan and the parameters it names; a directory's is its ``plan.json``.

    Raises:
        PlanError: unreadable or malformed, or the parameters are not those it was made with.
        DataError: the parameters file is damaged.
    """
    path = path / PLAN if path.is_dir() else path
    try:
        text = path.read_text()
    except OSError as error:
        raise PlanError(
            f"cannot read the plan: {error.strerror}",
            where=str(path),
            hint="give a plan.json, or the directory that deploy wrote one to",
        ) from error
    except UnicodeDecodeError as error:
        raise PlanError("not a plan: it is no text", where=str(path), hint="give a plan.json") from error
    plan = Plan.from_json(text, where=str(path))
    if plan.parameters is None:
        return plan, None
    beside = path.parent / plan.parameters.file
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise PlanError(
            f"the plan needs its parameters file: {error.strerror}",
            where=str(beside),
            hint="keep it in the plan's folder",
        ) from error
    if hashlib.sha256(content).hexdigest() != plan.parameters.sha256:
        raise PlanError(
            "it is not the file that the plan was made with", where=str(beside), hint="the plan holds its SHA-256"
        )
    return plan, Parameters.from_bytes(content, where=str(beside))


def write(folder: Path, plan: Plan, parameters: Parameters | None) -> None:
    """``plan.json`` in ``folder``, see :func:`write_to`."""
    write_to(folder / PLAN, plan, parameters)


def named(plan: Plan, parameters: Parameters | None, name: str = PARAMETERS) -> Plan:
    """``plan`` with the name and digest of the file that its parameters are written to."""
    if parameters is None:
        return plan
    digest = hashlib.sha256(parameters.to_bytes()).hexdigest()
    return dataclasses.replace(plan, parameters=ParametersFile(name, digest))


def write_to(path: Path, plan: Plan, parameters: Parameters | None) -> None:
    """Both files or none; the parameters lie beside the plan, which names them."""
    name = _parameters_name(path)
    files: dict[Path, bytes | str] = {}
    if parameters is not None:
        files[path.parent / name] = parameters.to_bytes()
    write_together({**files, path: named(plan, parameters, name).to_json()})
