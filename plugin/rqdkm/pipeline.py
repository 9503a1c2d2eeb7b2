"""The one sequence: load, quantize, compile, export, build, run, compare, report. Every command is a prefix of it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm import budget, judge, plan_files
from rqdkm.board import run as board_run
from rqdkm.export import project as exporter
from rqdkm.export import size
from rqdkm.image import ELF, PROJECT, Built, build_image, prefixed, without_build_folders
from rqdkm.models import data as datasets
from rqdkm.models import load as loader
from rqdkm.models import morph_file
from rqdkm.models.load import LoadedModel
from rqdkm.options import DeployOptions
from rqdkm.report import assemble, codec
from rqdkm.report import html as page
from rqdkm_tvm.errors import DataError, PlanError, RqdkmError
from rqdkm_tvm.files import staged_directory
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.plan import Plan

if TYPE_CHECKING:
    from rqdkm.models.summary import ModelSummary
    from rqdkm.planning import Planned
    from rqdkm.report.schema import Report

Progress = Callable[[str], None]
Int8 = npt.NDArray[np.int8]

_log = logging.getLogger(__name__)


def _silent(_text: str) -> None:
    pass


@dataclass(frozen=True)
class Prepared:
    """A model that computes in int8, and what it was before."""

    model: LoadedModel
    quantized_by_us: bool


@dataclass(frozen=True)
class BuildResult:
    """What ``build`` leaves behind; paths are those after the rename of the output directory."""

    elf: Path
    project_dir: Path
    sizes: size.Size


def inspect(path: Path) -> ModelSummary:
    """Layers, shapes, MACs and memory of a model file; nothing is built."""
    from rqdkm.models import summary

    return summary.summarize(path)


def prepare(options: DeployOptions, progress: Progress = _silent) -> Prepared:
    """Load the model, and quantize it if it computes in float.

    Raises:
        ModelError, UnsupportedOperatorError: the file cannot be used.
        DataError: a float model without calibration data, or data that does not fit.
    """
    progress(f"load: {options.model.name}")
    model = loader.load(options.model)
    if model.is_quantized:
        if options.calib is not None and not options.plans_bits and options.vdpc == "off":
            datasets.load_data(options.calib, model)  # a wrong file should not pass in silence
            _log.warning("%s computes in int8 already: --calib is not used", options.model.name)
        return Prepared(model, quantized_by_us=False)
    if options.calib is None:
        raise DataError(
            "the model computes in float and has to be calibrated",
            where=str(options.model),
            hint="pass --calib with typical inputs: an .npz or .npy file, or a folder of images",
        )
    from rqdkm.models import quantize

    progress("quantize: reading the calibration data")
    calibration = datasets.load_data(options.calib, model)
    if options.morphs and not morph_file.kernel_count(model.graph):
        from rqdkm import morphing

        morphed = morphing.morph(model, calibration, progress=prefixed("morph", progress))
        for account in morphed.accounts:
            _log.info(
                "kernel %s: %.1f dB, same class on %.1f %% of %d samples",
                account.kernel,
                account.sqnr_db,
                100 * account.agreement,
                account.samples,
            )
        model = morphed.model
    return Prepared(
        quantize.quantize(
            model, calibration, method=options.calib_method, progress=lambda text: progress(f"quantize: {text}")
        ),
        quantized_by_us=True,
    )


@dataclass(frozen=True)
class BitWidths:
    """The plan to obey, its weights, and how the bit-widths in it were found (None: they were given, or none are)."""

    plan: Plan | None = None
    parameters: Parameters | None = None
    search: Planned | None = None
    seconds: float = 0.0  # that the search took


def bit_widths(options: DeployOptions, model: LoadedModel, progress: Progress = _silent) -> BitWidths:
    """Read the plan of the options, or plan anew where the configuration asks for it.

    Raises:
        PlanError, DataError: a plan or parameters file that cannot be used.
        DataError: ``rq`` without calibration data.
        BudgetError: no bit-widths within budgets and allowed loss.
    """
    plan, parameters = None, None
    if options.plan is not None:
        plan, parameters = plan_files.read(options.plan)
    if not options.plans_bits or (plan is not None and plan.is_mixed):
        if options.plans_bits and options.calib is not None:
            _log.warning("%s has bit-widths already: --calib is not used", options.plan)
        return BitWidths(plan and plan_files.named(plan, parameters), parameters)
    if plan is not None:
        raise PlanError("it has no bit-widths", where=str(options.plan), hint="leave out --plan, or --config rq")
    if options.calib is None:
        raise DataError(
            "bit-widths are planned on calibration inputs",
            where=f"--config {options.config}",
            hint="pass --calib with typical inputs, labelled if possible, or --plan with a plan made before",
        )
    from rqdkm import morph_planning, planning

    began = time.monotonic()
    dataset = datasets.load_data(options.calib, model)
    step = prefixed("plan", progress)
    if morph_planning.morphs(model):
        limits = budget.limits(options.allowed_drop, None, None, None)
        kernels = morph_planning.plan(
            model, dataset, limits, drops=options.kernel_drop, kernel_set=options.kernel_set, progress=step
        )
        return BitWidths(
            plan_files.named(kernels.plan, kernels.parameters),
            kernels.parameters,
            None,
            time.monotonic() - began,
        )
    planner = planning.Planner(model, dataset, kernel_set=options.kernel_set, progress=step)
    # patches meet a RAM budget by themselves, bits of whole maps need not
    ram = options.ram_bytes if options.patch == "off" else None
    limits = budget.limits(options.allowed_drop, options.flash_bytes, ram, options.cycles)
    with budget.explained(budget.Ram(ram), "raise other budgets, or use a smaller input or model"):
        found = planner.plan(limits)
    plan = plan_files.named(found.plan, found.parameters)
    return BitWidths(plan, found.parameters, found, time.monotonic() - began)


def named(options: DeployOptions, planned: BitWidths) -> DeployOptions:
    """A plan with bit-widths makes it ``rq``, whatever the configuration was.

    Raises:
        PlanError: ``baseline``, which is 8 bits by definition.
    """
    if planned.plan is None or not planned.plan.is_mixed or options.plans_bits:
        return options
    if options.config == "baseline":
        raise PlanError("it has bit-widths, baseline has 8 bits", where=str(options.plan), hint="use --config rq")
    return dataclasses.replace(options, config="rq-dkm" if options.morphs else "rq")


def build(options: DeployOptions, progress: Progress = _silent) -> BuildResult:
    """Model to a project directory and its ELF file, in ``options.out``."""
    exporter.require_tools()
    prepared = prepare(options, progress)
    planned = bit_widths(options, prepared.model, progress)
    options = named(options, planned)
    with staged_directory(options.out, replace=options.force) as staging:
        built = build_image(options, prepared.model, planned, staging, progress)
    return BuildResult(options.out / ELF, options.out / PROJECT, built.sizes)


def deploy(options: DeployOptions, progress: Progress = _silent) -> Report:
    """The whole sequence; ``options.out`` then holds firmware, project, plan and reports.

    Raises:
        RqdkmError: whatever the user can put right; nothing is left behind then.
    """
    began = time.monotonic()
    exporter.require_tools()
    prepared = prepare(options, progress)
    evaluation = datasets.load_data(options.data, prepared.model) if options.data is not None else None
    planned = bit_widths(options, prepared.model, progress)
    options = named(options, planned)
    with staged_directory(options.out, replace=options.force) as staging:
        built = build_image(options, prepared.model, planned, staging, progress)
        pieces = assemble.Pieces(
            options=options,
            model=prepared.model,
            quantized_by_us=prepared.quantized_by_us,
            compiled=built.compiled,
            sizes=built.sizes,
            toolchain=built.toolchain,
            search=planned.search,
            branching=built.branching,
        )
        if options.board != "none":
            pieces = _measure(options, prepared.model, built, evaluation, pieces, progress)
        progress("report: writing")
        volatile = {
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
        }
        if planned.search is not None:
            volatile["search_seconds"] = round(planned.seconds, 1)
        if any(built.patch_seconds.values()):
            volatile["patch_seconds"] = {step: round(taken, 1) for step, taken in built.patch_seconds.items()}
        report = dataclasses.replace(assemble.report(pieces), run=volatile)
        codec.write(report, staging / "report.json")
        page.write(report, staging / "report.html")
    return report


def run(
    project: Path,
    *,
    board: str = "virtual",
    inputs: Path | None = None,
    outputs: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    flash_model: str = "f407",
    progress: Progress = _silent,
) -> board_run.RunResult:
    """Run the image of an output or project directory on a board.

    Args:
        inputs: ``.npz`` or ``.npy`` file; seeded uniform noise when None.
        samples: how many; None: all of ``inputs``, or one of noise.
        outputs: write the raw output tensors there, one array per tensor (samples first).
    """
    elf = find_elf(project)
    metadata = read_metadata(find_project(project))
    if inputs is None:
        batches = judge.noise(metadata, samples or 1, seed)
    else:
        batches = judge.read_inputs(inputs, metadata, samples)
    result = board_run.run_samples(
        elf, board, judge.by_sample(batches), board_run.RunOptions(flash_model=flash_model, progress=progress)
    )
    if outputs is not None:
        judge.write_outputs(outputs, result.outputs)
    return result


def flash(project: Path, *, progress: Progress = _silent) -> None:
    """Write the image of an output or project directory to the real board."""
    from rqdkm.board.openocd import OpenOcd

    elf = find_elf(project)
    progress(f"flash: {elf.name}")
    OpenOcd().flash(elf)


def find_project(directory: Path) -> Path:
    """The CMake project in an output directory, or the directory itself."""
    inner = directory / PROJECT
    return inner if inner.is_dir() else directory


def find_elf(directory: Path) -> Path:
    """The image of an output directory, or of a project that was built by hand.

    Raises:
        RqdkmError: there is none.
    """
    for candidate in (directory / ELF, directory / "build" / ELF, directory / PROJECT / "build" / ELF):
        if candidate.is_file():
            return candidate
    raise RqdkmError(
        "no firmware image here",
        where=str(directory),
        hint="name a directory that rqdkm deploy or build has written, or build the project with CMake first",
    )


def read_metadata(project: Path) -> dict[str, Any]:
    """metadata.json of a project.

    Raises:
        RqdkmError: it is missing or no JSON object.
    """
    path = project / "metadata.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RqdkmError(
            f"not a project of rqdkm: {error}", where=str(path), hint="name a directory that rqdkm has written"
        ) from error
    if not isinstance(content, dict) or "inputs" not in content:
        raise RqdkmError("not a project's metadata", where=str(path), hint="name a directory that rqdkm has written")
    return content


# ---- steps


def _measure(
    options: DeployOptions,
    model: LoadedModel,
    built: Built,
    evaluation: datasets.Dataset | None,
    pieces: assemble.Pieces,
    progress: Progress,
) -> assemble.Pieces:
    """Run the image: outputs against the reference, cycles, memory, accuracy."""
    if evaluation is not None:
        inputs = [array[: options.samples] for array in datasets.quantize_inputs(evaluation, model)]
    else:
        inputs = judge.exactness_inputs(model, options.samples, options.seed)
    ran = board_run.run_samples(
        built.elf,
        options.board,
        judge.by_sample(inputs),
        board_run.RunOptions(flash_model=options.flash_model, progress=prefixed("run", progress)),
    )
    progress("reference: comparing outputs")
    mixed = built.compiled.quantized if built.mixed else None
    kernels = [selection.selected for selection in ran.selections]
    exactness = judge.exactness(model, inputs, ran.outputs, mixed=mixed, kernels=kernels)
    layer_cycles, folded = _profile(options, built, inputs, progress)
    accuracy = None
    if evaluation is not None and evaluation.labels is not None:
        with without_build_folders(built.project_dir):
            accuracy = judge.accuracy(model, built.project_dir, evaluation, progress=prefixed("evaluate", progress))
    return dataclasses.replace(
        pieces, ran=ran, exactness=exactness, layer_cycles=layer_cycles, folded=folded, accuracy=accuracy
    )


def _profile(
    options: DeployOptions, built: Built, inputs: Sequence[Int8], progress: Progress
) -> tuple[list[float] | None, dict[str, int]]:
    """Cycles per layer and per call path of an inference, with an image that counts them (a few cycles more a layer).

    Of one sample; the mean of all where a policy selects the kernel of each.
    """
    if options.board == "qemu":
        return None, {}
    progress("profile: building the counting image")
    with without_build_folders(built.project_dir):
        elf = exporter.build(built.project_dir, profile_layers=True, progress=prefixed("profile", progress))
        ran = board_run.run_samples(
            elf,
            options.board,
            judge.by_sample([array[: None if options.policy else 1] for array in inputs]),
            board_run.RunOptions(flash_model=options.flash_model, profile=True, progress=prefixed("profile", progress)),
        )
    count = len(ran.outputs)
    return ran.layer_cycles, {path: round(cycles / count) for path, cycles in ran.folded.items()}


__all__ = [
    "ELF",
    "BuildResult",
    "DeployOptions",
    "build",
    "deploy",
    "find_elf",
    "flash",
    "inspect",
    "prepare",
    "run",
]
