"""Patch-based inference in a TVM build of your own: three passes, one by one, between passes that you know.

    python examples/patch_passes.py

An int8 Relay module (a small network, written by hand as TVM's TFLite importer would write it) and a few calibration
frames go in. A plan says where the network is divided and how its first layers are cut. ``ClassifyPatches`` writes into
it which patches have outliers and keep 8 bits, ``SearchBranchBitwidths`` the formats of the others' feature maps, and
``SchedulePatches`` makes one layer of the first ones, run patch by patch. What follows is offload and ``relay.build``
as ever. Needs TVM 0.14 to 0.19 with Relay and ``rqdkm_tvm``; nothing else of this project.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from tvm import relay

from rqdkm_tvm import layers_c, memory
from rqdkm_tvm.operators import lowered_layers
from rqdkm_tvm.passes import (
    AssignKernels,
    ClassifyPatches,
    FuseEpilogues,
    LegalizeQnn,
    LowerKernels,
    PartitionLayers,
    SchedulePatches,
    SearchBranchBitwidths,
    StripBoundaryQuantize,
)
from rqdkm_tvm.patches.schedule import splits
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan
from rqdkm_tvm.sites import read_sites

RNG = np.random.default_rng(0)
SCALE, ZERO = 0.05, -128
RAM = 20_000  # bytes of the arena; run whole, the feature maps alone are larger


def convolution(x: relay.Expr, channels_in: int, channels: int, stride: int = 1) -> relay.Expr:
    """3x3, relu: the zero point is the least value, so that saturation does it."""
    scales = RNG.uniform(0.001, 0.004, channels).astype("float32")
    y = relay.qnn.op.conv2d(
        x,
        relay.const(np.clip(RNG.normal(0, 40, (3, 3, channels_in, channels)), -127, 127).astype("int8")),
        relay.const(ZERO),
        relay.const(0),
        relay.const(SCALE),
        relay.const(scales),
        kernel_size=(3, 3),
        strides=(stride, stride),
        channels=channels,
        padding=(1, 1, 1, 1),
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_dtype="int32",
    )
    y = relay.nn.bias_add(y, relay.const(RNG.integers(-500, 500, channels).astype("int32")), axis=3)
    s_in, zero = relay.const(scales * np.float32(SCALE)), relay.const(ZERO)
    return relay.qnn.op.requantize(y, s_in, relay.const(0), relay.const(SCALE), zero, axis=3, out_dtype="int8")


def network() -> tvm.IRModule:
    """conv -> conv -> (conv, a quarter of the pixels) -> mean: 16 numbers."""
    x = relay.var("image", shape=(1, 32, 32, 4), dtype="int8")
    y = convolution(convolution(x, 4, 16), 16, 16)
    y = convolution(y, 16, 16, stride=2)
    y = relay.nn.avg_pool2d(relay.cast(y, "int32"), pool_size=(16, 16), strides=(16, 16), layout="NHWC")
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([x], relay.cast(y, "int8"))))


def frames() -> np.ndarray:
    """Noise everywhere, and now and then a glare in the lower quarter: values far outside the rest."""
    noise = RNG.normal(-20, 15, (32, 32, 32, 4))
    noise[::2, 26:, 8:24] = 120
    return np.clip(np.rint(noise), -128, 127).astype("int8")


def peak(mod: tvm.IRModule) -> int:
    """Bytes of feature maps alive at once."""
    return max(memory.timeline(mod["main"]).live())


def main() -> int:
    calibration = frames()
    mod = tvm.transform.Sequential([StripBoundaryQuantize(), LegalizeQnn(), PartitionLayers()], name="mine")(network())
    print("layers:     ", [site.name for site in read_sites(mod["main"])])
    places = [split.last for split in splits(mod["main"])]
    print("divisible:  ", places)

    # where the network is divided and how: by hand here; rqdkm_tvm.patches.find.Finder tries them all
    plan = Plan(patches=PatchPlan(last=places[2], grid=(4, 1), halo="recompute"))
    ClassifyPatches(plan, calibration, mode="static")(mod)
    print("classes:    ", plan.patches.assignment, "(0 keeps 8 bits)")
    SearchBranchBitwidths(plan, calibration, weight=0.3)(mod)
    for number, branch in enumerate(plan.patches.branches):
        rows = sum(row.count(number) for row in plan.patches.assignment)
        print(f"branch {number}:   ", {name: o.bits for name, o in branch.items()} or "as the layers", "patches", rows)

    patched = SchedulePatches(plan)(mod)
    stage = next(site.layer.stage for site in read_sites(patched["main"]) if site.layer.stage is not None)
    print("after:      ", [site.name for site in read_sites(patched["main"])])
    print("feature maps:", peak(mod), "bytes before,", peak(patched), "after, and the stage's own buffers")
    print("again:      ", f"{100 * stage.redundancy:.1f} % of the stage's {stage.macs:,} MACs")
    print("BitOPs:     ", f"{64 * stage.computed_macs / stage.bitops:.2f} times less than at 8 bits")

    # and on as without it
    kernels = AssignKernels(plan, ram_budget=RAM)
    assigned = tvm.transform.Sequential([FuseEpilogues(plan), kernels])(patched)
    lowered = LowerKernels(plan)(assigned)
    executor = relay.backend.Executor("aot", {"interface-api": "c", "unpacked-api": True})
    with tvm.transform.PassContext(opt_level=3, config={"tir.disable_vectorize": True, "tir.usmp.enable": True}):
        built = relay.build(lowered, target="c", executor=executor, runtime=relay.backend.Runtime("crt"))
    layers = lowered_layers(lowered["main"])
    scratch = {layer.name: layer.scratch_bytes for layer in layers}
    print("arena:      ", f"{memory.timeline(assigned['main']).pack(scratch)} of {RAM} bytes")
    print("kernels:    ", [layer.kernel for layer in layers])
    source = built.lib.imported_modules[0].get_source()
    called = all(f"{layer.symbol}((" in source for layer in layers)
    text = layers_c.source(layers)
    print("layers.c:   ", len(text.splitlines()), "lines;", "called by TVM's C" if called else "MISSING")
    return 0 if called else 1


if __name__ == "__main__":
    sys.exit(main())
