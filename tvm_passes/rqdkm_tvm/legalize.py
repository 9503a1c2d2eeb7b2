"""LegalizeQnn: one canonical form for what importers write in several ways."""

from __future__ import annotations

from typing import Any

from rqdkm_tvm.graph import RESHAPES, Rewriter, module_pass, op_name, rebuild, users, with_main
from rqdkm_tvm.offload.base import (
    constant,
    dtype_of,
    ints,
    is_scalar,
    padding4,
    scalar_quantization,
    shape_of,
)
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any


class _Legalizer(Rewriter):
    """Rules, applied operands first; each returns the expression that replaces the call."""

    def __init__(self, function: Expr) -> None:
        super().__init__()
        self.users = users(function)

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        name = op_name(call)
        if name in RESHAPES:
            return self._reshape(call, original)
        rule = {
            "qnn.conv2d": self._fold_pad,
            "qnn.requantize": self._drop_equal_requantize,
            "qnn.quantize": self._cancel_dequantize,
            "clip": self._drop_open_clip,
            "nn.bias_add": self._last_axis,
            "qnn.add": self._no_scalars,
            "qnn.mul": self._no_scalars,
        }.get(name)
        return call if rule is None else rule(call, original)

    def _reshape(self, call: Expr, original: Expr) -> Expr:
        """reshape, squeeze, expand_dims and batch_flatten become one reshape to constant sizes, or vanish."""
        source = call.args[0]
        while op_name(source) == "reshape":
            source = source.args[0]
        root = original.args[0]
        while op_name(root) in RESHAPES:
            root = root.args[0]
        if shape_of(root) == shape_of(original):
            return source
        return _with_span(relay.reshape(source, shape_of(original)), original.span)

    def _fold_pad(self, call: Expr, original: Expr) -> Expr:
        """A pad with the input's zero point is the convolution's own padding: exact, and no padded copy in RAM."""
        pad, pad_original = call.args[0], original.args[0]
        if op_name(pad) != "nn.pad" or op_name(pad_original) != "nn.pad" or call.attrs.data_layout != "NHWC":
            return call
        if pad.attrs.pad_mode != "constant" or not isinstance(pad.args[1], relay.Constant):
            return call
        if not isinstance(call.args[2], relay.Constant) or not is_scalar(call.args[2]):
            return call
        if len(self.users.get(pad_original, [])) != 1:
            return call  # the padded tensor exists anyway
        value = float(constant(pad.args[1]).reshape(-1)[0])
        width = [ints(axis) for axis in pad.attrs.pad_width]
        if value != float(constant(call.args[2]).reshape(-1)[0]) or width[0] != (0, 0) or width[3] != (0, 0):
            return call
        top, left, bottom, right = padding4(call.attrs.padding)
        padding = (top + width[1][0], left + width[2][0], bottom + width[1][1], right + width[2][1])
        extent = [(int(k) - 1) * int(d) + 1 for k, d in zip(call.attrs.kernel_size, call.attrs.dilation, strict=True)]
        if max(padding[0], padding[2]) >= extent[0] or max(padding[1], padding[3]) >= extent[1]:
            return call  # a whole window of padding: kernels may refuse that
        attrs = {str(key): call.attrs[key] for key in call.attrs.keys()}  # noqa: SIM118
        attrs["padding"] = list(padding)
        changed = tvm.ir.make_node("relay.attrs.Conv2DAttrs", **attrs)
        return relay.Call(call.op, [pad.args[0], *call.args[1:]], changed, call.type_args, call.span)

    def _drop_equal_requantize(self, call: Expr, original: Expr) -> Expr:
        """int8 to int8 with equal scale and zero point."""
        parameters = call.args[1:5]
        if dtype_of(original.args[0]) != "int8" or dtype_of(original) != "int8":
            return call
        if not all(isinstance(p, relay.Constant) and is_scalar(p) for p in parameters):
            return call
        same = scalar_quantization(parameters[0], parameters[1]) == scalar_quantization(parameters[2], parameters[3])
        return call.args[0] if same else call

    def _cancel_dequantize(self, call: Expr, original: Expr) -> Expr:
        """quantize(dequantize(x)) with equal scale and zero point is x."""
        inner = call.args[0]
        if op_name(inner) != "qnn.dequantize" or dtype_of(original) != "int8":
            return call
        parameters = [*call.args[1:3], *inner.args[1:3]]
        if not all(isinstance(p, relay.Constant) and is_scalar(p) for p in parameters):
            return call
        if scalar_quantization(*parameters[:2]) != scalar_quantization(*parameters[2:]):
            return call
        source = original.args[0]
        return inner.args[0] if op_name(source) == "qnn.dequantize" and dtype_of(source.args[0]) == "int8" else call

    def _drop_open_clip(self, call: Expr, original: Expr) -> Expr:
        """An int8 clip to the whole range."""
        whole = float(call.attrs.a_min) <= -128 and float(call.attrs.a_max) >= 127
        return call.args[0] if dtype_of(original) == "int8" and whole else call

    def _no_scalars(self, call: Expr, original: Expr) -> Expr:
        """A constant operand without axes gets one: custom operators need tensors."""
        pair = [
            relay.const(constant(x).reshape(1)) if isinstance(x, relay.Constant) and not shape_of(x) else x
            for x in call.args[:2]
        ]
        return relay.Call(call.op, [*pair, *call.args[2:]], call.attrs, call.type_args, call.span)

    def _last_axis(self, call: Expr, original: Expr) -> Expr:
        """nn.bias_add counts its axis from the front, so that patterns see one form."""
        rank = len(shape_of(original))
        if int(call.attrs.axis) >= 0 or rank != 4:
            return call
        return _with_span(relay.nn.bias_add(call.args[0], call.args[1], axis=int(call.attrs.axis) + rank), call.span)


def _with_span(call: Expr, span: Any) -> Expr:
    return relay.Call(call.op, call.args, call.attrs, call.type_args, span)


def LegalizeQnn() -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: canonical form of a QNN graph; changes no value.

    * ``nn.pad`` with the zero point, read by one ``qnn.conv2d`` only, becomes that convolution's padding
    * ``reshape``, ``squeeze``, ``expand_dims`` and ``nn.batch_flatten`` become one ``reshape`` (chains merge)
    * requantize, clip and quantize-after-dequantize that change nothing vanish
    * a scalar that is added or multiplied is a tensor of one element
    """

    def run(mod: Any) -> Any:
        function = mod["main"]
        return with_main(mod, rebuild(function, _Legalizer(function).run(function)))

    return module_pass("LegalizeQnn", run)
