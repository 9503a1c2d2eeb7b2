"""Mixed precision in a TVM build of your own: three passes, one by one, between passes that you know.

    python examples/mixed_precision_passes.py

An int8 Relay module (a small residual network, written by hand as TVM's TFLite importer would write it) and a few
calibration inputs go in. ``AnnotateREP`` leaves the sensitivity of every layer on the module, ``AssignBitwidths``
writes bit-widths that meet a flash and a RAM budget into a plan, ``LowerMixedPrecision`` makes the module compute with
them, and ``AssignKernels`` keeps to the budgets of the whole. What follows is offload and ``relay.build`` as ever.
Needs TVM 0.14 to 0.19 with Relay and ``rqdkm_tvm``; nothing else of this project.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from tvm import relay

from rqdkm_tvm import layers_c
from rqdkm_tvm.bitwidths import Budgets
from rqdkm_tvm.bitwidths.passes import annotation
from rqdkm_tvm.operators import lowered_layers
from rqdkm_tvm.passes import (
    AnnotateREP,
    AssignBitwidths,
    AssignKernels,
    FuseEpilogues,
    LegalizeQnn,
    LowerKernels,
    LowerMixedPrecision,
    PartitionLayers,
    StripBoundaryQuantize,
)
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sensitivity.calibration import Calibration
from rqdkm_tvm.sites import read_sites

RNG = np.random.default_rng(0)
SCALE, ZERO = 0.05, -128
FLASH, RAM = 7000, 12_000  # bytes: all constants, and the arena
WEIGHTS, TENSORS = 5000, 7000  # what bit-widths decide of them; the rest is for biases, multipliers and scratch


def convolution(x: relay.Expr, channels_in: int, channels: int) -> relay.Expr:
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
    """conv -> (conv + itself) -> conv -> max pool -> dense: 10 classes."""
    x = relay.var("image", shape=(1, 16, 16, 4), dtype="int8")
    first = convolution(x, 4, 16)
    second = convolution(first, 16, 16)
    pairs = [relay.const(v) for v in (SCALE, ZERO) * 3]
    y = convolution(relay.qnn.op.add(first, second, *pairs), 16, 16)
    y = relay.reshape(relay.nn.max_pool2d(y, pool_size=(4, 4), strides=(4, 4), layout="NHWC"), (1, 256))
    weights = np.clip(RNG.normal(0, 40, (10, 256)), -127, 127).astype("int8")
    y = relay.qnn.op.dense(
        y,
        relay.const(weights),
        relay.const(ZERO),
        relay.const(0),
        relay.const(SCALE),
        relay.const(0.002),
        units=10,
        out_dtype="int32",
    )
    y = relay.qnn.op.requantize(
        y, relay.const(np.float32(0.002 * SCALE)), relay.const(0), relay.const(0.2), relay.const(0), out_dtype="int8"
    )
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([x], y)))


def bits(mod: tvm.IRModule) -> dict[str, str]:
    """Weight bits by runs of channels and bits of the result, by layer."""
    found = {}
    for site in read_sites(mod["main"]):
        widths = sorted(set(site.layer.weight_bits), reverse=True) if site.layer.weight_bits else [8]
        weights = "/".join(map(str, widths)) if site.layer.weights is not None else "-"
        found[site.name] = f"W{weights} A{site.layer.output.bits}"
    return found


def main() -> int:
    images = RNG.integers(-128, 128, (16, 16, 16, 4)).astype("int8")
    calibration = Calibration([[image] for image in images])

    # everything up to layers, then the metric, in a Sequential of your own
    mod = tvm.transform.Sequential(
        [
            relay.transform.FoldConstant(),
            StripBoundaryQuantize(),
            LegalizeQnn(),
            PartitionLayers(),
            AnnotateREP(calibration),
        ],
        name="mine",
    )(network())
    print("before:     ", bits(mod))
    for row in annotation(mod["main"]).sensitivity.layers:
        at = {b: f"{row.weight_error(b):.3g}" for b in sorted(row.weights)}
        print(f"R({row.name}; bits of the weights) =", at)

    # bit-widths within budgets: the passes share a plan
    plan = Plan()
    AssignBitwidths(plan, Budgets(flash=WEIGHTS, ram=TENSORS), levels=("layer", "group"), calibration=calibration)(mod)
    print("plan:       ", [(x.name, x.weights or 8, x.output.bits if x.output else 8) for x in plan.layers])
    mixed = LowerMixedPrecision(plan)(mod)
    print("after:      ", bits(mixed))

    # and on as without it; kernels would spend what bit-widths have saved, if nothing limited them
    kernels = AssignKernels(plan, ram_budget=RAM, flash_budget=FLASH)
    mod = tvm.transform.Sequential([FuseEpilogues(plan), kernels, LowerKernels(plan)])(mixed)
    executor = relay.backend.Executor("aot", {"interface-api": "c", "unpacked-api": True})
    with tvm.transform.PassContext(opt_level=3, config={"tir.disable_vectorize": True, "tir.usmp.enable": True}):
        built = relay.build(mod, target="c", executor=executor, runtime=relay.backend.Runtime("crt"))
    layers = lowered_layers(mod["main"])
    weights = sum(layer.constant_bytes for layer in layers)
    print("kernels:    ", [layer.kernel for layer in layers])
    print("constants:  ", f"{weights} of {FLASH} bytes")
    source = built.lib.imported_modules[0].get_source()
    called = all(f"{layer.symbol}((" in source for layer in layers)
    print(
        "layers.c:   ",
        len(layers_c.source(layers).splitlines()),
        "lines;",
        "called by TVM's C" if called else "MISSING",
    )
    return 0 if called else 1


if __name__ == "__main__":
    sys.exit(main())
