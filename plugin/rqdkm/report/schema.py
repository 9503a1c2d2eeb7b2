"""What a deployment reports: the dataclasses behind ``report.json``.

Every key carries its documentation, unit and range in its annotation; the reader and writer (codec.py), the JSON
Schema and the key table of docs/report.md (document.py) are all derived from here. Keys are only ever added within
``rqdkm.report/1``; a change of meaning makes it ``/2``.

Everything except ``run`` is reproducible: no paths of the machine, no times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

SCHEMA: Final = "rqdkm.report/1"

CycleKind = Literal["modelled", "measured", "none"]


@dataclass(frozen=True)
class Key:
    """Documentation, unit and (inclusive) least value of one key."""

    doc: str
    unit: str = ""
    minimum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of the firmware; real = scale * (q - zero_point)."""

    name: Annotated[str, Key("name in the model file")]
    shape: Annotated[tuple[int, ...], Key("N, H, W, C or whatever the model has")]
    dtype: Annotated[str, Key("element type on the chip, e.g. `int8`")]
    scale: Annotated[float, Key("quantization scale", minimum=0)]
    zero_point: Annotated[int, Key("quantization zero point")]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model file that was deployed."""

    name: Annotated[str, Key("file name without directory and extension")]
    sha256: Annotated[str, Key("SHA-256 of the file, hexadecimal")]
    file_bytes: Annotated[int, Key("size of the file", unit="bytes", minimum=0)]
    inputs: Annotated[tuple[Tensor, ...], Key("input tensors, in the firmware's order")]
    outputs: Annotated[tuple[Tensor, ...], Key("output tensors, in the firmware's order")]


@dataclass(frozen=True, kw_only=True)
class Board:
    """What ran the image, or would have."""

    name: Annotated[str, Key("`virtual`, `qemu`, `openocd` or `none`")]
    clock_hz: Annotated[int, Key("core clock (HCLK) during inference", unit="Hz", minimum=1)]
    chip: Annotated[str, Key("the microcontroller")] = "STM32F407VG"
    ram_bytes: Annotated[int, Key("RAM of the chip: SRAM and CCM together", unit="bytes", minimum=1)] = 196608
    flash_bytes: Annotated[int, Key("flash of the chip", unit="bytes", minimum=1)] = 1048576


@dataclass(frozen=True, kw_only=True)
class CycleModel:
    """Where the cycle counts come from."""

    kind: Annotated[
        CycleKind, Key("`modelled` (virtual board), `measured` (silicon) or `none` (nothing counted cycles)")
    ]
    name: Annotated[str, Key("flash model of the virtual board (`f407`, `l4r5`, `none`) or the counter used")]
    wait_states: Annotated[int | None, Key("flash wait states at that clock", minimum=0)] = None
    note: Annotated[str, Key("what the counts do not cover, one sentence")] = ""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """One inference, whole network. Cycle-derived keys are null where nothing counted cycles."""

    macs: Annotated[int, Key("multiply-accumulates of the direct algorithm, padding included", minimum=0)]
    bitops: Annotated[int, Key("sum over layers of MACs x weight bits x activation bits", minimum=0)]
    cycles: Annotated[int | None, Key("core cycles, mean over the samples", unit="cycles", minimum=0)]
    cycles_per_mac: Annotated[float | None, Key("cycles / MACs", minimum=0)]
    latency_ms: Annotated[float | None, Key("cycles / clock", unit="ms", minimum=0)]
    fps: Annotated[float | None, Key("inferences per second, back to back", minimum=0)]
    ram_peak_bytes: Annotated[
        int, Key("static data + arena + stack, high-water marks where painted", unit="bytes", minimum=0)
    ]
    ram_planned_bytes: Annotated[int, Key("static data + planned arena + reserved stack", unit="bytes", minimum=0)]
    flash_bytes: Annotated[int, Key("code + weights + other constants + initial values", unit="bytes", minimum=0)]
    weights_bytes: Annotated[int, Key("weights, biases and requantization tables as packed", unit="bytes", minimum=0)]
    energy_mj: Annotated[
        float | None, Key("*estimated* energy of one inference (DS8626 run current)", unit="mJ", minimum=0)
    ]
    power_mw: Annotated[float | None, Key("*estimated* power while running (DS8626 run current)", unit="mW", minimum=0)]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Quality on the user's labelled data, computed with the firmware's own outputs."""

    metric: Annotated[str, Key("`top1` or `auc`")]
    value: Annotated[float, Key("the metric, 0 to 1", minimum=0)]
    n: Annotated[int, Key("samples evaluated", minimum=1)]
    ci95: Annotated[tuple[float, float], Key("95 % confidence interval: Wilson for `top1`, Hanley-McNeil for `auc`")]
    reference: Annotated[float | None, Key("the same metric of the model file as given, on the same samples")] = None
    loss: Annotated[float | None, Key("`reference` minus `value`; negative where the firmware is better")] = None
    loss_ci95: Annotated[
        tuple[float, float] | None, Key("95 % confidence interval of `loss`, paired by sample (McNemar)")
    ] = None
    source: Annotated[str, Key("what computed the outputs: `board`, `host build of the same C`, ...")] = "board"


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """Byte for byte comparison of the firmware's outputs with a reference interpreter's."""

    reference: Annotated[str, Key("the reference, e.g. `tflite-micro reference kernels`")]
    samples: Annotated[int, Key("inputs compared", minimum=1)]
    mismatches: Annotated[int, Key("output bytes that differ, over all samples", unit="bytes", minimum=0)]
    compared_bytes: Annotated[int, Key("output bytes compared", unit="bytes", minimum=1)]
    max_difference: Annotated[int, Key("largest difference of one output, in quantization steps", minimum=0)] = 0


@dataclass(frozen=True, kw_only=True)
class SearchTrial:
    """One plan that was run while bit-widths were searched."""

    error: Annotated[float, Key("predicted error, in units of the sensitivity's objective", minimum=0)]
    weights_bytes: Annotated[float, Key("weights at the plan's bits", unit="bytes", minimum=0)]
    ram_bytes: Annotated[float, Key("peak of feature maps and smallest scratch", unit="bytes", minimum=0)]
    loss: Annotated[float, Key("measured loss, a share of the calibration samples")]
    loss_upper: Annotated[float, Key("its one-sided upper bound, what is compared with the allowed loss")]
    allowed: Annotated[bool, Key("whether that is within the allowed loss")]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the bit-widths were found."""

    objective: Annotated[str, Key("what the sensitivity is an error of")]
    samples: Annotated[int, Key("calibration samples on which losses were measured", minimum=1)]
    labelled: Annotated[bool, Key("true: losses are of accuracy; false: share of samples whose first class changed")]
    max_drop: Annotated[float, Key("allowed loss", unit="points", minimum=0)]
    rounds: Annotated[int, Key("derivations of the sensitivity for the plan that was taken", minimum=1)]
    trials: Annotated[tuple[SearchTrial, ...], Key("plans that were run, in order")]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator on the chip, in order of execution."""

    name: Annotated[str, Key("unique name")]
    op: Annotated[str, Key("operator, e.g. `conv2d`")]
    kernel: Annotated[str, Key("C kernel that runs it; `tvm` where TVM's generated C does")]
    bits_weight: Annotated[float, Key("bits per weight, mean over output channels, 0 without weights", minimum=0)]
    bits_activation: Annotated[int, Key("bits per input activation", minimum=0)]
    macs: Annotated[int, Key("multiply-accumulates of the direct algorithm", minimum=0)]
    cycles: Annotated[int | None, Key("core cycles, null where nothing counted them", unit="cycles", minimum=0)]
    scratch_bytes: Annotated[int, Key("working memory of the kernel", unit="bytes", minimum=0)]
    config: Annotated[dict[str, Any], Key("the kernel's choices, as in plan.json")] = field(default_factory=dict)
    bits_output: Annotated[int, Key("bits per value of the result as stored", minimum=0)] = 8
    input_shape: Annotated[tuple[int, ...], Key("shape of the first input")] = ()
    output_shape: Annotated[tuple[int, ...], Key("shape of the output")] = ()
    weights_bytes: Annotated[int, Key("its constants as packed", unit="bytes", minimum=0)] = 0
    bitops: Annotated[int | None, Key("BitOPs of a patch stage; null: MACs x weight bits x activation bits")] = None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One region of memory."""

    name: Annotated[str, Key("`sram`, `ccm` or `flash`")]
    size_bytes: Annotated[int, Key("size of the region", unit="bytes", minimum=0)]
    used_bytes: Annotated[int, Key("bytes of it the image occupies, stack reserve included", unit="bytes", minimum=0)]


@dataclass(frozen=True, kw_only=True)
class TimelineStep:
    """Arena use while one layer runs."""

    layer: Annotated[str, Key("name of the layer")]
    live_bytes: Annotated[
        int, Key("feature maps alive: inputs, outputs and tensors kept for later", unit="bytes", minimum=0)
    ]
    scratch_bytes: Annotated[int, Key("working memory of the kernel", unit="bytes", minimum=0)]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """RAM: where it goes, and when."""

    static_bytes: Annotated[int, Key("static data of the firmware without arena and stack", unit="bytes", minimum=0)]
    arena_planned_bytes: Annotated[int, Key("feature maps + scratch as planned", unit="bytes", minimum=0)]
    arena_measured_bytes: Annotated[int | None, Key("arena bytes really written (painting)", unit="bytes", minimum=0)]
    stack_reserved_bytes: Annotated[int, Key("stack reserved by the linker script", unit="bytes", minimum=0)]
    stack_bytes: Annotated[
        int | None, Key("stack really used, interrupts included (painting)", unit="bytes", minimum=0)
    ]
    pools: Annotated[tuple[Pool, ...], Key("the chip's memories")]
    timeline: Annotated[tuple[TimelineStep, ...], Key("arena use, layer by layer")]


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Flash: where it goes."""

    code_bytes: Annotated[int, Key("machine code and vector table", unit="bytes", minimum=0)]
    weights_bytes: Annotated[int, Key("weights, biases and requantization tables", unit="bytes", minimum=0)]
    rodata_bytes: Annotated[int, Key("other constants", unit="bytes", minimum=0)]
    data_bytes: Annotated[int, Key("initial values of RAM, copied at start-up", unit="bytes", minimum=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What happened to one operator of the model."""

    operator: Annotated[str, Key("operator as the model names it")]
    layer: Annotated[str, Key("layer it became, or its output's name")]
    offloaded: Annotated[bool, Key("runs in a kernel of ours")]
    kernel: Annotated[str, Key("that kernel, or empty")] = ""
    reason: Annotated[str, Key("why this kernel, or why none")] = ""


@dataclass(frozen=True, kw_only=True)
class Function:
    """One row of the cycle profile, from the symbols of the ELF file."""

    name: Annotated[str, Key("C function")]
    cycles: Annotated[int, Key("cycles spent in the function itself, one inference", unit="cycles", minimum=0)]


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What built the image."""

    versions: Annotated[dict[str, str], Key("version of every tool that shapes the image")]
    flags: Annotated[tuple[str, ...], Key("compiler flags of the kernels")]


@dataclass(frozen=True, kw_only=True)
class PatchBranch:
    """One set of feature map formats in a patch stage."""

    bits: Annotated[dict[str, int], Key("bits of the result by layer, where they are not the layer's own")]
    patches: Annotated[int, Key("positions that take it (before the chip has looked at them)", minimum=0)]
    layer_bits: Annotated[
        tuple[int, ...], Key("bits of every layer's result, in the order of the stage's `layers`")
    ] = ()


@dataclass(frozen=True, kw_only=True)
class PatchTrial:
    """One lambda of the search for the branches' bit-widths."""

    weight: Annotated[float, Key("lambda, the weight of entropy against computation", minimum=0)]
    bitops_ratio: Annotated[float, Key("BitOPs of the searched patches at 8 bits / with the bits found", minimum=0)]
    samples: Annotated[int, Key("calibration samples that it was measured on", minimum=0)]
    loss: Annotated[float, Key("measured on them")]
    loss_upper: Annotated[float, Key("its upper bound, one-sided")]
    allowed: Annotated[
        bool, Key("whether the loss on the first samples, or its bound on all, is within the allowed one")
    ]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The layers that run patch by patch."""

    last: Annotated[str, Key("the last of them")]
    layers: Annotated[tuple[str, ...], Key("their names, in order of execution")]
    grid: Annotated[tuple[int, ...], Key("patches down and across its result")]
    halo: Annotated[str, Key("`recompute`, or `lines`: rows kept from patch to patch")]
    input: Annotated[str, Key("`frame`: in memory whole; `callback`: handed over region by region")]
    frame_bytes: Annotated[int, Key("the input; with `callback` no part of the RAM figures", unit="bytes", minimum=0)]
    macs: Annotated[int, Key("multiply-accumulates of these layers, each computed once", minimum=0)]
    computed_macs: Annotated[int, Key("multiply-accumulates of all patches", minimum=0)]
    kept_bytes: Annotated[int, Key("rows kept from patch to patch", unit="bytes", minimum=0)]
    vdpc: Annotated[str, Key("how patches are classified: `off`, `static`, `dynamic`, or `all` are searched")]
    assignment: Annotated[tuple[tuple[int, ...], ...], Key("branch of each patch, by row and column")]
    branches: Annotated[tuple[PatchBranch, ...], Key("the first has the layers' own formats")]
    thresholds: Annotated[tuple[int, ...], Key("low, high and count of outliers in int8 (dynamic only)")] = ()
    outlier_share: Annotated[
        tuple[tuple[float, ...], ...], Key("part of the calibration samples in which a patch is an outlier patch")
    ] = ()
    outlier_limit: Annotated[
        float | None, Key("share from which a position is of the outlier class (static only)", minimum=0)
    ] = None
    weight: Annotated[float | None, Key("lambda of the branches taken")] = None
    trials: Annotated[tuple[PatchTrial, ...], Key("lambdas that were tried")] = ()
    timeline_before: Annotated[
        tuple[TimelineStep, ...], Key("arena use layer by layer without patches, kernels with the least scratch")
    ] = ()
    frame_steps_before: Annotated[
        int, Key("steps of `timeline_before`, from the first on, in whose live bytes the input is", minimum=0)
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One deployment."""

    schema: Annotated[Literal["rqdkm.report/1"], Key("version of this format")] = SCHEMA
    created_by: Annotated[str, Key("program and version, e.g. `rqdkm 0.1.0`")]
    config: Annotated[str, Key("what was done to the model: `baseline`, ...")]
    model: Annotated[Model, Key("the model file")]
    board: Annotated[Board, Key("what ran the image")]
    cycle_model: Annotated[CycleModel, Key("where cycle counts come from")]
    totals: Annotated[Totals, Key("the figures of one inference")]
    accuracy: Annotated[Accuracy | None, Key("only when labels were given")] = None
    search: Annotated[Search | None, Key("only where bit-widths were searched")] = None
    patches: Annotated[Patches | None, Key("only where layers run patch by patch")] = None
    exactness: Annotated[Exactness | None, Key("only when the image ran")] = None
    layers: Annotated[tuple[Layer, ...], Key("the layers, in order of execution")]
    memory: Annotated[Memory, Key("RAM")]
    flash: Annotated[Flash, Key("flash")]
    offload: Annotated[tuple[Operator, ...], Key("operator by operator: offloaded or not, and why")] = ()
    functions: Annotated[tuple[Function, ...], Key("cycle profile by C function, largest first")] = ()
    toolchain: Annotated[Toolchain, Key("what built the image")]
    notes: Annotated[tuple[str, ...], Key("anything a reader of the figures must know")] = ()
    run: Annotated[dict[str, Any], Key("volatile facts: date, duration, host, files; not reproducible")] = field(
        default_factory=dict
    )
