"""What a deployment is asked to do: the contract between the command line, the pipeline and other callers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rqdkm_tvm.errors import RqdkmError
from rqdkm_tvm.kernels.registry import KernelSet

CALIBRATION_METHODS = ("minmax", "percentile", "mse")
BOARDS = ("virtual", "qemu", "openocd", "none")
FLASH_MODELS = ("f407", "l4r5", "none")
KERNEL_SETS = ("auto", "reference")
HALOS = ("auto", "recompute", "lines")
INPUTS = ("frame", "callback")
VDPC = ("off", "static", "dynamic", "all")  # all: none is an outlier patch, for comparison
CONFIGS = ("int8", "baseline", "rq", "dkm", "rq-dkm")
MAX_DROP = 0.5  # points

_GRID = re.compile(r"[1-9]\d{0,2}x[1-9]\d{0,2}", re.IGNORECASE | re.ASCII)
_AUTO_ROWS = re.compile(r"auto[xX]([1-9][0-9]{0,2})")
_SIZE = re.compile(r"(\d+)([KM]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}


class OptionError(RqdkmError):
    """An option has a value that cannot be used."""


@dataclass(frozen=True)
class DeployOptions:
    """One deployment: ``rqdkm deploy``, ``rqdkm build`` (a prefix of it) and every row of ``rqdkm bench``.

    Args:
        model: ``.tflite`` (int8 or float) or ``.onnx`` file.
        out: directory to create; see :func:`rqdkm_tvm.files.staged_directory` for what may be replaced.
        calib: calibration inputs (``.npz``, ``.npy`` or an image folder); required for float models.
        data: evaluation inputs, with labels when accuracy is wanted.
        calib_method: how ranges are taken from ``calib``; one of :data:`CALIBRATION_METHODS`.
        board: what runs the image; one of :data:`BOARDS`. ``none`` stops after the build.
        flash_model: flash accelerator of the virtual board; one of :data:`FLASH_MODELS`.
        samples: inputs compared byte for byte with the reference interpreter, at least 1.
        seed: seed of those inputs when no ``data`` is given.
        ram_bytes: budget for static data, arena and stack together; None: all the RAM of the chip.
        flash_bytes: budget for code and constants; None: all the flash of the chip.
        config: what is done to the model; one of :data:`CONFIGS`. ``int8`` is the fastest exact int8 firmware,
            ``baseline`` leaves out kernels that multiply less often than the definition says (Winograd), ``rq`` plans
            bit-widths from the calibration inputs and then does as ``int8``. ``dkm`` and ``rq-dkm`` are these two of a
            morphing model.
        max_drop: loss of accuracy that the search of ``rq`` may cause, in points; None: :data:`MAX_DROP`.
        kernel_drop: of a morphing model, instead: by kernel's name, points that it may lose; the others keep 8 bits.
        cycles: budget of one inference for that search, as the kernels estimate them; None: none.
        kernels: ``auto`` picks the fastest kernel that fits, ``reference`` the plain C of every operator.
        policy: a ``policy.json`` by which the firmware of a morphing model selects a kernel before every frame.
        plan: a ``plan.json`` to follow instead of planning anew.
        force: replace ``out`` even if something else wrote it.
        patch: ``off``, ``auto`` (patches if the RAM budget needs them, where and as many as serve best) or the grid,
            ``3x2``: rows and columns of patches.
        split: the layer after which the network is divided; None: whatever serves best.
        halo: what neighbouring patches share; one of :data:`HALOS`.
        input: the frame lies in memory, or the application hands over regions of it; one of :data:`INPUTS`.
        vdpc: classify patches by outliers, and search bits for the others; one of :data:`VDPC`.

    Raises:
        OptionError: a value outside the ranges above, a limit of a search that does not take place, or an ``out`` that
            would swallow an input or the user's files.
    """

    model: Path
    out: Path
    calib: Path | None = None
    data: Path | None = None
    calib_method: str = "minmax"
    board: str = "virtual"
    flash_model: str = "f407"
    samples: int = 20
    seed: int = 0
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    config: str = "int8"
    max_drop: float | None = None
    kernel_drop: Mapping[str, float] | None = None
    cycles: int | None = None
    kernels: str = "auto"
    plan: Path | None = None
    policy: Path | None = None
    force: bool = False
    patch: str = "off"
    split: str | None = None
    halo: str = "auto"
    input: str = "frame"
    vdpc: str = "off"

    def __post_init__(self) -> None:
        _check_choice("--calib-method", self.calib_method, CALIBRATION_METHODS)
        _check_choice("--board", self.board, BOARDS)
        _check_choice("--flash-model", self.flash_model, FLASH_MODELS)
        _check_choice("--kernels", self.kernels, KERNEL_SETS)
        _check_choice("--config", self.config, CONFIGS)
        if self.samples < 1:
            raise OptionError(f"needs at least 1, got {self.samples}", where="--samples")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise OptionError(f"is in points, 0 to 100, got {self.max_drop:g}", where="--max-drop")
        for kernel, points in (self.kernel_drop or {}).items():
            if not 0 <= points <= 100:
                raise OptionError(f"is in points, 0 to 100, got {points:g} for {kernel}", where="--kernel-drop")
        if self.kernel_drop and self.config != "rq-dkm":
            raise OptionError("needs --config rq-dkm", where="--kernel-drop", hint="or leave it out")
        if self.kernel_drop and self.max_drop is not None:
            raise OptionError("and --max-drop exclude each other", where="--kernel-drop", hint="leave out one of them")
        if self.cycles is not None and self.cycles < 1:
            raise OptionError(f"needs at least 1, got {self.cycles}", where="--cycles")
        if self.seed < 0:
            raise OptionError(f"must not be negative, got {self.seed}", where="--seed")
        self._check_patches()
        self._check_search()
        if self.policy is not None and not self.morphs:
            raise OptionError("selects kernels of a morphing model", where="--policy", hint="add --config dkm")
        _check_out(self.out, [p for p in (self.model, self.calib, self.data, self.plan, self.policy) if p is not None])

    def _check_patches(self) -> None:
        if self.patch not in ("auto", "off") and auto_columns(self.patch) is None:
            parse_grid(self.patch)
        _check_choice("--halo", self.halo, HALOS)
        _check_choice("--input", self.input, INPUTS)
        _check_choice("--vdpc", self.vdpc, VDPC)
        asked = [
            name
            for name, value in (
                ("--split", self.split is not None),
                ("--halo", self.halo != "auto"),
                ("--input", self.input != "frame"),
                ("--vdpc", self.vdpc != "off"),
            )
            if value
        ]
        if asked and self.patch == "off":
            raise OptionError("means nothing without patches", where=", ".join(asked), hint="add --patch auto")
        if self.patch != "off" and self.kernels == "reference":
            raise OptionError("the reference kernels do not run patches", where="--patch", hint="use --kernels auto")
        if self.vdpc == "dynamic" and self.input == "callback":
            raise OptionError(
                "a patch can be looked at before it is run only if the frame is in memory",
                where="--vdpc dynamic",
                hint="use --vdpc static, or --input frame",
            )
        if self.vdpc != "off" and self.config == "baseline":
            raise OptionError("baseline has 8 bits", where="--vdpc", hint="use --config int8 or rq")
        if self.vdpc != "off" and self.calib is None:
            raise OptionError(
                "patches are classified on calibration inputs",
                where="--vdpc",
                hint="pass --calib with typical inputs: an .npz or .npy file, or a folder of images",
            )

    def _check_search(self) -> None:
        """Limits of the search for bit-widths mean nothing without one."""
        given = [
            name
            for name, value in (
                ("--max-drop", self.max_drop),
                ("--kernel-drop", self.kernel_drop),
                ("--cycles", self.cycles),
            )
            if value is not None
        ]
        vdqs = self.vdpc != "off" and given == ["--max-drop"]
        if given and self.plan is not None and not vdqs:
            raise OptionError(
                "only a search for bit-widths has such limits, and with --plan none is made",
                where=", ".join(given),
                hint="leave it out to follow the plan, or leave out --plan to search anew",
            )
        if given and not self.plans_bits and not vdqs:
            raise OptionError(
                f"only a search for bit-widths has such limits, and --config {self.config} makes none",
                where=", ".join(given),
                hint="add --config rq, or leave it out",
            )

    @property
    def plans_bits(self) -> bool:
        """Whether bit-widths are planned, or a plan with some is followed."""
        return self.config in ("rq", "rq-dkm")

    @property
    def morphs(self) -> bool:
        """Whether the model must have morphing layers."""
        return self.config in ("dkm", "rq-dkm")

    @property
    def allowed_drop(self) -> float:
        """``max_drop`` in points, given or not."""
        return MAX_DROP if self.max_drop is None else self.max_drop

    @property
    def kernel_set(self) -> KernelSet:
        """Which kernels the compiler may choose from."""
        if self.kernels == "reference":
            return "reference"
        return "direct" if self.config == "baseline" else "auto"


@dataclass(frozen=True)
class FinetuneOptions:
    """Everything ``finetune`` needs to know. Fields are named like the options.

    ``model`` is the int8 file the plan is for, ``weights`` the float model it was made from (.keras or .tflite).
    """

    model: Path
    plan: Path
    data: Path
    out: Path
    weights: Path | None = None
    epochs: int = 10
    seed: int = 0
    rate: float = 1e-3
    batch: int = 64
    force: bool = False

    def __post_init__(self) -> None:
        for option, value in (("--epochs", self.epochs), ("--batch", self.batch)):
            if value < 1:
                raise OptionError(f"needs at least 1, got {value}", where=option)
        if self.seed < 0:
            raise OptionError(f"must not be negative, got {self.seed}", where="--seed")
        if not 0 < self.rate < 1:
            raise OptionError(f"must be between 0 and 1, got {self.rate}", where="--rate")
        given = (self.model, self.plan, self.data, self.weights)
        _check_out(self.out, [path for path in given if path is not None])


def parse_size(text: str, option: str = "size") -> int:
    """Bytes of ``54996``, ``48K``, ``48KiB`` or ``1M`` (K = 1024, M = 1024 K; no fractions).

    Raises:
        OptionError: anything else, or zero.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if size <= 0:
        raise OptionError(f"{text!r} is not a size", where=option, hint="write bytes, or 48K, or 1M (K = 1024)")
    return size


def parse_drops(text: str | None) -> dict[str, float] | None:
    """Points by kernel of ``5x5=1.3,1x1=0.7``.

    Raises:
        OptionError: anything else.
    """
    if text is None:
        return None
    try:
        pairs = [(name.strip(), float(points)) for name, points in (part.rsplit("=", 1) for part in text.split(","))]
        found = dict(pairs)
        if "" in found or len(found) < len(pairs):
            raise ValueError
        return found
    except ValueError:
        raise OptionError(
            f"{text!r} is no list of different kernels and their points",
            where="--kernel-drop",
            hint="write 5x5=1.3,1x1=0.7",
        ) from None


def parse_grid(text: str) -> tuple[int, int]:
    """Rows and columns of ``3x2``.

    Raises:
        OptionError: anything else.
    """
    if not _GRID.fullmatch(text):
        raise OptionError(f"{text!r} is no grid", where="--patch", hint="write rows and columns: 3x2 (or auto, or off)")
    rows, columns = (int(part) for part in text.lower().split("x"))
    return rows, columns


def auto_columns(text: str) -> int | None:
    """Columns of ``autox1``, where the rows are to be chosen; None: it is something else."""
    found = _AUTO_ROWS.fullmatch(text)
    return int(found[1]) if found else None


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{value!r} does not exist", where=option, hint=f"available: {', '.join(choices)}")


def _check_out(out: Path, inputs: list[Path]) -> None:
    """Replacing ``out`` deletes what it held, so it must not hold the user's place or an input."""
    target = out.resolve()
    for kept in (Path.cwd(), Path.home(), *inputs):
        resolved = kept.resolve()
        if target == resolved or target in resolved.parents:
            raise OptionError(
                f"the output directory would replace {kept}", where=f"-o {out}", hint="name a new directory"
            )
