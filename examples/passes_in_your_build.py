"""The passes in a TVM build of your own.

    python examples/passes_in_your_build.py [directory]

Takes an int8 Relay module (here a small one, written by hand as TVM's TFLite importer would write it), runs the passes
one by one beside a pass that has nothing to do with this project, edits the plan in between, and hands the result to
``relay.build`` as any TVM user does. Needs TVM 0.14 to 0.19 with Relay and the ``rqdkm_tvm`` package; nothing else of
this project. Writes TVM's C and ``layers.c`` to the directory, when one is given.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import tvm
from tvm import relay

from rqdkm_tvm import layers_c
from rqdkm_tvm.operators import lowered_layers
from rqdkm_tvm.partition import leftovers
from rqdkm_tvm.passes import AssignKernels, LegalizeQnn, LowerKernels, PartitionLayers, StripBoundaryQuantize
from rqdkm_tvm.plan import Plan


def network() -> tvm.IRModule:
    """quantize -> pad -> 3x3 convolution -> transpose (no kernel of ours) -> maximum -> dequantize."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.001, 0.01, 8).astype("float32")
    x = relay.var("image", shape=(1, 16, 16, 4), dtype="float32")
    y = relay.qnn.op.quantize(x, relay.const(0.05), relay.const(-128), out_dtype="int8")
    y = relay.nn.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]], pad_value=-128)
    y = relay.qnn.op.conv2d(
        y,
        relay.const(rng.integers(-127, 128, (3, 3, 4, 8)).astype("int8")),
        relay.const(-128),
        relay.const(0),
        relay.const(0.05),
        relay.const(scales),
        kernel_size=(3, 3),
        channels=8,
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_dtype="int32",
    )
    y = relay.nn.bias_add(y, relay.const(rng.integers(-500, 500, 8).astype("int32")), axis=3)
    y = relay.qnn.op.requantize(
        y,
        relay.const(scales * np.float32(0.05)),
        relay.const(0),
        relay.const(0.04),
        relay.const(-128),
        axis=3,
        out_dtype="int8",
    )
    y = relay.transpose(relay.clip(y, -128, 127), (0, 2, 1, 3))
    y = relay.nn.max_pool2d(y, pool_size=(2, 2), strides=(2, 2), layout="NHWC")
    y = relay.qnn.op.dequantize(y, relay.const(0.04), relay.const(-128))
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([x], y)))


def operators(mod: tvm.IRModule) -> dict[str, int]:
    """How often each operator (or composite function) is called in ``main``."""
    found: Counter[str] = Counter()

    def visit(expr: relay.Expr) -> None:
        if isinstance(expr, relay.Call):
            found[str(expr.op.name) if hasattr(expr.op, "name") else str(expr.op.attrs["Composite"])] += 1

    stack = [mod["main"].body]
    while stack:
        expr = stack.pop()
        visit(expr)
        stack += [arg for arg in getattr(expr, "args", []) if isinstance(arg, relay.Call)]
    return dict(sorted(found.items()))


def main(out: Path | None) -> int:
    mod = network()
    print("as imported:       ", operators(mod))

    # in a Sequential of your own, with passes of your own or of TVM's between
    canonical = tvm.transform.Sequential(
        [relay.transform.FoldConstant(), StripBoundaryQuantize(), LegalizeQnn(), PartitionLayers()], name="mine"
    )
    mod = canonical(mod)
    print("partitioned:       ", operators(mod))
    print("left to TVM:       ", [str(call.op.name) for call in leftovers(mod["main"])])

    # a plan is completed by AssignKernels; here it is edited like a plan.json and passed back
    plan = Plan()
    mod = AssignKernels(plan, ram_budget=8 * 1024)(mod)
    print("plan:              ", [(layer.name, layer.kernel, layer.config) for layer in plan.layers])
    plan = Plan.from_json(plan.to_json().replace(str(plan.layers[-1].kernel), "max_pool2d_s8_ref"))
    mod = LowerKernels(plan)(AssignKernels(plan)(mod))
    print("lowered:           ", operators(mod))

    # from here on plain TVM
    executor = relay.backend.Executor("aot", {"interface-api": "c", "unpacked-api": True})
    config = {"tir.disable_vectorize": True, "tir.usmp.enable": True}
    with tvm.transform.PassContext(opt_level=3, config=config):
        built = relay.build(mod, target="c", executor=executor, runtime=relay.backend.Runtime("crt"))
    layers = lowered_layers(mod["main"])
    called = sum(built.lib.imported_modules[0].get_source().count(f"{layer.symbol}((") for layer in layers)
    print("calls in TVM's C:  ", [layer.symbol for layer in layers], "found" if called == len(layers) else "MISSING")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "tvm.c").write_text(built.lib.imported_modules[0].get_source())
        (out / "layers.c").write_text(layers_c.source(layers))
        print("written:           ", *sorted(p.name for p in out.iterdir()))
    return 0 if called == len(layers) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
