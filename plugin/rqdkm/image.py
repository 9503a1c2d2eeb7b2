"""One firmware image: compiled, exported and linked, again where a budget turns out tighter than assumed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rqdkm import budget, plan_files
from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.export import metadata, size, toolchain
from rqdkm.export import project as exporter
from rqdkm.models.load import LoadedModel
from rqdkm.options import DeployOptions
from rqdkm_tvm.errors import DataError, FlashBudgetError, ModelError

if TYPE_CHECKING:
    from rqdkm.branching import Branching
    from rqdkm.pipeline import BitWidths
    from rqdkm.report.schema import Toolchain
    from rqdkm_tvm.compile import CompiledModel

PROJECT = "project"  # the self-contained CMake project within an output directory
ELF = "firmware.elf"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    compiled: CompiledModel
    project_dir: Path
    elf: Path
    sizes: size.Size
    toolchain: Toolchain
    mixed: bool  # whether TFLite has no interpreter for what it computes
    branching: Branching | None = None
    patch_seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def build_image(
    options: DeployOptions, model: LoadedModel, planned: BitWidths, staging: Path, progress: Progress
) -> Built:
    """Compile, export and link into ``staging``; again if a budget turns out tighter than assumed."""
    import rqdkm_tvm
    from rqdkm.patching import Patcher
    from rqdkm_tvm.assign import DEFAULT_PRICES, MEMORY_PRICES

    allowance, flash = budget.Ram(options.ram_bytes), budget.Flash(options.flash_bytes)
    patcher = Patcher(options, model, planned.plan, planned.parameters, prefixed("patches", progress))
    policy = None if options.policy is None else PolicyFile.load(options.policy)
    while True:
        try:
            with budget.explained(allowance, _remedy(options)):
                plan = patcher.plan(allowance.room, flash.constants)
                compiled = rqdkm_tvm.compile_model(
                    model.module,
                    plan=plan,
                    parameters=planned.parameters,
                    ram_budget=allowance.arena,
                    flash_budget=flash.constants,
                    kernel_set=options.kernel_set,
                    prices=MEMORY_PRICES if options.plans_bits else DEFAULT_PRICES,
                    output_names=list(model.output_names),
                    progress=lambda text: progress(f"compile: {text}"),
                )
        except FlashBudgetError as error:
            if flash.takes_least(error.needed_bytes):
                continue
            raise budget.flash_error(error, flash, *_fewer_bits(options)) from error
        if not allowance.may_hold(compiled):
            continue
        budget.check_weights(compiled, options.flash_bytes)
        _check_kernels(options, compiled, policy)
        project_dir = staging / PROJECT
        shutil.rmtree(project_dir, ignore_errors=True)
        progress("export: C sources")
        exporter.write_project(compiled, project_dir, name=model.name, policy=policy)
        elf = staging / ELF
        with without_build_folders(project_dir):
            shutil.copy2(exporter.build(project_dir, progress=prefixed("build", progress)), elf)
            tools = toolchain.describe(project_dir)
        sizes = size.measure(elf)
        if allowance.holds(sizes) and flash.holds(sizes, compiled):
            break
    budget.check_flash(sizes, compiled, options.flash_bytes)
    plan_files.write(staging, compiled.plan, planned.parameters)
    library = any(layer.layer.library is not None for layer in compiled.layers)
    mixed = compiled.plan.is_mixed or planned.parameters is not None or library
    return Built(compiled, project_dir, elf, sizes, tools, mixed, patcher.branching, patcher.seconds)


def _check_kernels(options: DeployOptions, compiled: CompiledModel, policy: PolicyFile | None) -> None:
    """Whether there is something to select, and the policy selects among it."""
    names = metadata.kernels(metadata.metadata(compiled, "", ""))[0]
    if options.morphs and len(names) == 1:
        raise nothing_morphs(options)
    if policy is not None and policy.names != names:
        raise DataError(
            f"it selects among {', '.join(policy.names)}; the model has {', '.join(names)}",
            where=str(options.policy),
            hint="train a policy for this model: rqdkm dkm costs, rqdkm dkm train",
        )


def nothing_morphs(options: DeployOptions) -> ModelError:
    """The error of ``--config dkm`` on a plain int8 model."""
    return ModelError(
        "no layer of it morphs",
        where=str(options.model),
        hint="train it with MorphConv2D (docs/morph.md), or give the float model with --calib",
    )


def _remedy(options: DeployOptions) -> str:
    """What helps besides more RAM."""
    found = []
    if options.patch == "off":
        found.append("run the first layers in patches (--patch auto)")
    elif options.input == "frame":
        found.append("keep the input out of RAM (--input callback)")
    return ", or ".join([*found, *_fewer_bits(options), "use a smaller input or model"])


def _fewer_bits(options: DeployOptions) -> list[str]:
    if options.plans_bits or options.plan:
        return []
    return [f"plan fewer bits (--config {'rq-dkm' if options.config == 'dkm' else 'rq'} --calib FILE)"]


@contextmanager
def without_build_folders(project_dir: Path) -> Iterator[None]:
    """Build folders do not survive: CMake's caches hold absolute paths, and the directory is renamed in the end."""
    try:
        yield
    finally:
        for folder in project_dir.glob("build*"):
            shutil.rmtree(folder, ignore_errors=True)


def prefixed(step: str, progress: Progress) -> Progress:
    return lambda text: progress(f"{step}: {text}")
