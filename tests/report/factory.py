"""A synthetic but consistent report: a small residual network on the virtual board."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rqdkm.report.derive import totals
from rqdkm.report.schema import (
    Accuracy,
    Board,
    CycleModel,
    Exactness,
    Flash,
    Function,
    Layer,
    Memory,
    Model,
    Operator,
    PatchBranch,
    Patches,
    PatchTrial,
    Pool,
    Report,
    Tensor,
    TimelineStep,
    Toolchain,
)

CLOCK_HZ = 168_000_000

# name, op, kernel, input shape, output shape, MACs, cycles, scratch, weight bytes
_LAYERS = [
    ("conv_in", "conv2d", "conv2d_s8_direct", (1, 32, 32, 3), (1, 32, 32, 16), 442368, 790000, 2304, 560),
    ("block1_a", "conv2d", "conv2d_s8_direct", (1, 32, 32, 16), (1, 32, 32, 16), 2359296, 2790000, 4608, 2560),
    ("block1_b", "conv2d", "conv2d_s8_direct", (1, 32, 32, 16), (1, 32, 32, 16), 2359296, 2790000, 4608, 2560),
    ("block1_add", "add", "add_s8", (1, 32, 32, 16), (1, 32, 32, 16), 0, 151000, 0, 0),
    ("down", "depthwise_conv2d", "depthwise_s8", (1, 32, 32, 16), (1, 16, 16, 16), 36864, 131000, 640, 240),
    ("point", "conv2d", "conv2d_s8_pointwise", (1, 16, 16, 16), (1, 16, 16, 32), 131072, 178000, 512, 640),
    ("pool", "avg_pool2d", "avg_pool_s8", (1, 16, 16, 32), (1, 1, 1, 32), 0, 42000, 0, 0),
    ("classifier", "fully_connected", "fully_connected_s8", (1, 32), (1, 10), 320, 900, 0, 400),
    ("softmax", "softmax", "softmax_s8", (1, 10), (1, 10), 0, 6100, 0, 1024),
]


def report(**changes: Any) -> Report:
    """The report; ``changes`` replace its top-level fields without re-deriving anything."""
    layers = tuple(
        Layer(
            name=name,
            op=op,
            kernel=kernel,
            bits_weight=8 if weights else 0,
            bits_activation=8,
            macs=macs,
            cycles=cycles,
            scratch_bytes=scratch,
            input_shape=source,
            output_shape=target,
            weights_bytes=weights,
        )
        for name, op, kernel, source, target, macs, cycles, scratch, weights in _LAYERS
    )
    timeline = tuple(
        TimelineStep(layer=name, live_bytes=live, scratch_bytes=layer.scratch_bytes)
        for (name, *_), layer, live in zip(
            _LAYERS, layers, (19456, 32768, 49152, 49152, 20480, 12288, 8224, 42, 20), strict=True
        )
    )
    memory = Memory(
        static_bytes=2412,
        arena_planned_bytes=53760,
        arena_measured_bytes=53760,
        stack_reserved_bytes=4096,
        stack_bytes=1180,
        pools=(
            Pool(name="sram", size_bytes=131072, used_bytes=60268),
            Pool(name="ccm", size_bytes=65536, used_bytes=0),
            Pool(name="flash", size_bytes=1048576, used_bytes=37840),
        ),
        timeline=timeline,
    )
    flash = Flash(code_bytes=27392, weights_bytes=7984, rodata_bytes=2300, data_bytes=164)
    base = Report(
        created_by="rqdkm 0.1.0",
        config="baseline",
        model=Model(
            name="synthetic",
            sha256="0" * 64,
            file_bytes=20480,
            inputs=(Tensor(name="image", shape=(1, 32, 32, 3), dtype="int8", scale=1 / 255, zero_point=-128),),
            outputs=(Tensor(name="classes", shape=(1, 10), dtype="int8", scale=1 / 256, zero_point=-128),),
        ),
        board=Board(name="virtual", clock_hz=CLOCK_HZ),
        cycle_model=CycleModel(kind="modelled", name="f407", wait_states=5, note="typical, not silicon"),
        totals=totals(layers=layers, cycles=6_893_000, clock_hz=CLOCK_HZ, memory=memory, flash=flash),
        accuracy=Accuracy(metric="top1", value=0.875, n=200, ci95=(0.8220, 0.9139), reference=0.875),
        exactness=Exactness(reference="tflite-micro reference kernels", samples=20, mismatches=0, compared_bytes=200),
        layers=layers,
        memory=memory,
        flash=flash,
        offload=(
            Operator(operator="CONV_2D", layer="conv_in", offloaded=True, kernel="conv2d_s8_direct", reason="fastest"),
            Operator(operator="TRANSPOSE", layer="transpose", offloaded=False, reason="no kernel of ours <yet> & co"),
        ),
        functions=(
            Function(name="rqdkm_conv2d_s8_direct", cycles=6_548_000),
            Function(name="rqdkm_add_s8", cycles=151_000),
        ),
        toolchain=Toolchain(versions={"gcc": "12.2.1", "tvm": "0.19.0"}, flags=("-O2", "-mcpu=cortex-m4")),
        notes=("synthetic figures, for tests",),
        run={"created": "2026-01-01T00:00:00Z", "seconds": 12.5},
    )
    return replace(base, **changes)


def patched_report(**changes: Any) -> Report:
    """The first five layers of :func:`report` as a stage of 3x2 patches; ``changes`` replace fields of its section."""
    base = report()
    first, rest = base.layers[:5], base.layers[5:]
    stage = Layer(
        name="patch_stage",
        op="patch_stage",
        kernel="patch_stage",
        bits_weight=8,
        bits_activation=8,
        macs=sum(layer.macs for layer in first),
        cycles=7_000_000,
        scratch_bytes=9000,
        input_shape=(1, 32, 32, 3),
        output_shape=(1, 16, 16, 16),
        weights_bytes=sum(layer.weights_bytes for layer in first),
        bitops=200_000_000,
    )
    layers = (stage, *rest)
    before = base.memory.timeline
    live = TimelineStep(layer=stage.name, live_bytes=4096, scratch_bytes=stage.scratch_bytes)
    memory = replace(base.memory, timeline=(live, *before[5:]), arena_planned_bytes=13_312, arena_measured_bytes=13_312)
    section = Patches(
        last="down",
        layers=tuple(layer.name for layer in first),
        grid=(3, 2),
        halo="recompute",
        input="callback",
        frame_bytes=3072,
        macs=stage.macs,
        computed_macs=stage.macs * 5 // 4,
        kept_bytes=0,
        vdpc="static",
        assignment=((0, 1), (2, 1), (1, 0)),
        branches=(
            PatchBranch(bits={}, patches=2, layer_bits=(8, 8, 8, 8, 8)),
            PatchBranch(bits={"conv_in": 4, "block1_a": 2}, patches=3, layer_bits=(4, 2, 8, 8, 8)),
            PatchBranch(bits={"conv_in": 4}, patches=1, layer_bits=(4, 8, 8, 8, 8)),
        ),
        outlier_share=((0.5, 0.1), (0.0, 0.2), (0.05, 0.11)),
        outlier_limit=0.25,
        weight=0.4,
        trials=(
            PatchTrial(weight=0.2, bitops_ratio=3.5, samples=250, loss=0.02, loss_upper=0.03, allowed=False),
            PatchTrial(weight=0.4, bitops_ratio=2.25, samples=1500, loss=0.0, loss_upper=0.004, allowed=True),
        ),
        timeline_before=before,
        frame_steps_before=1,
    )
    cycles = sum(layer.cycles or 0 for layer in layers)
    return replace(
        base,
        layers=layers,
        memory=memory,
        totals=totals(layers=layers, cycles=cycles, clock_hz=CLOCK_HZ, memory=memory, flash=base.flash),
        patches=replace(section, **changes),
    )
