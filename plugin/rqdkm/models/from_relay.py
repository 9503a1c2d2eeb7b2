"""A float Relay module in NHWC -> :class:`~rqdkm.models.graph.Graph`, in TFLite's operators.

For models that did not come as ``.tflite``. What TFLite cannot say directly is said with two operators: padding that
is neither SAME nor VALID becomes PAD and VALID.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relay

from rqdkm.models.check import conv_output_size, same_padding
from rqdkm.models.graph import CUSTOM, SELECT, Graph, NDArray, Operator, TensorInfo
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.morph.gather import selected

AGAIN = "#"  # between a node's name and a number, where one node makes several tensors
_HINT = "replace it in the model, or convert the model to .tflite with its own converter"


def to_graph(module: tvm.IRModule, name: str, where: str, output_names: Sequence[str]) -> Graph:
    """Convert ``main``.

    A parameter that is only used through a change of layout to NHWC becomes an NHWC input.

    Raises:
        UnsupportedOperatorError: names the call by its span.
    """
    walker = _Walker(where)
    function = module["main"]
    for parameter in function.params:
        walker.input(parameter, function.body)
    body = function.body
    results = list(body.fields) if isinstance(body, relay.Tuple) else [body]
    outputs = [walker.value(result) for result in results]
    for index, output in zip(outputs, output_names, strict=True):
        old = walker.tensors[index]
        walker.tensors[index] = replace(old, name=output)
    return Graph(name, tuple(walker.tensors), tuple(walker.operators), tuple(walker.inputs), tuple(outputs))


def tidy_names(graph: Graph) -> Graph:
    """Drop the numbers of :data:`AGAIN` where they became unnecessary, once operators have been fused."""
    tensors = list(graph.tensors)
    taken = {tensors[i].name for i in (*graph.inputs, *graph.outputs)}
    for operator in graph.operators:
        index = operator.outputs[0]
        plain = tensors[index].name.split(AGAIN)[0]
        if index not in graph.outputs and plain not in taken:
            tensors[index] = replace(tensors[index], name=plain)
        taken.add(tensors[index].name)
    return replace(graph, tensors=tuple(tensors))


def _shape(expression: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in expression.checked_type.shape)


class _Walker:
    """Visits calls from inputs to outputs; ``known`` maps expressions to tensor numbers."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: list[TensorInfo] = []
        self.operators: list[Operator] = []
        self.inputs: list[int] = []
        self.known: dict[Any, int] = {}
        self.names: set[str] = set()

    # ---- tensors

    def tensor(self, name: str, shape: tuple[int, ...], data: NDArray | None = None, dtype: str = "float32") -> int:
        unique, again = name, 1
        while unique in self.names:
            again += 1
            unique = f"{name}{AGAIN}{again}"
        self.names.add(unique)
        self.tensors.append(TensorInfo(unique, shape, dtype, None, data))
        return len(self.tensors) - 1

    def constant(self, name: str, values: NDArray) -> int:
        return self.tensor(name, values.shape, values, str(values.dtype))

    def emit(self, op: str, inputs: Sequence[int], name: str, shape: tuple[int, ...], **attrs: Any) -> int:
        output = self.tensor(name, shape)
        self.operators.append(Operator(op, tuple(inputs), (output,), attrs))
        return output

    def input(self, parameter: Any, body: Any) -> None:
        users: list[Any] = []

        def visit(expression: Any) -> None:
            if isinstance(expression, relay.Call) and any(a.same_as(parameter) for a in expression.args):
                users.append(expression)

        relay.analysis.post_order_visit(body, visit)
        to_nhwc = bool(users) and all(
            user.op.name == "layout_transform" and user.attrs.dst_layout == "NHWC" for user in users
        )
        index = self.tensor(parameter.name_hint, _shape(users[0]) if to_nhwc else _shape(parameter))
        self.inputs.append(index)
        self.known[parameter] = index
        if to_nhwc:
            self.known.update(dict.fromkeys(users, index))

    # ---- expressions

    def value(self, expression: Any) -> int:
        """Tensor number of an expression's result, converting what it depends on first."""
        stack = [expression]
        while stack:  # deep networks would overflow Python's stack
            top = stack[-1]
            if top in self.known:
                stack.pop()
                continue
            waiting = [e for e in self._operands(top) if e not in self.known]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            self.known[top] = self._convert(top)
            stack.pop()
        return self.known[expression]

    def _operands(self, expression: Any) -> list[Any]:
        if not isinstance(expression, relay.Call):
            return []
        choice = selected(expression)
        if choice is not None:  # a morphing layer
            return choice[0]
        found: list[Any] = []
        for argument in expression.args:
            found.extend(argument.fields if isinstance(argument, relay.Tuple) else [argument])
        return found

    def _convert(self, expression: Any) -> int:
        if isinstance(expression, relay.Constant):
            return self.constant(self.name_of(expression, "constant"), expression.data.numpy())
        op = expression.op.name if isinstance(getattr(expression, "op", None), tvm.ir.Op) else "layer"
        name = self.name_of(expression, op.removeprefix("nn."))
        if name in ("add", "multiply", "bias_add"):  # a part of the layer before it, whose name it shall have
            data = self.known[expression.args[0]]
            name = name if self.tensors[data].is_constant else self.tensors[data].name.split(AGAIN)[0]
        if not isinstance(expression, relay.Call) or not isinstance(expression.op, tvm.ir.Op):
            raise self.unsupported(type(expression).__name__, name)
        inputs = [self.known[e] for e in self._operands(expression)]
        if inputs and all(self.tensors[i].is_constant for i in inputs) and expression.op.name in _CONSTANT_RULES:
            values = [np.asarray(self.tensors[i].data) for i in inputs]
            result = np.asarray(_CONSTANT_RULES[expression.op.name](expression, *values))
            return self.constant(name, result.astype(expression.checked_type.dtype))
        rule = _RULES.get(expression.op.name)
        if rule is None:
            raise self.unsupported(expression.op.name, name)
        return rule(self, expression, name, inputs)

    def name_of(self, expression: Any, default: str) -> str:
        span = getattr(expression, "span", None)
        if isinstance(span, tvm.relay.SequentialSpan):
            span = span.spans[-1] if len(span.spans) else None
        return str(span.source_name.name) if span is not None and span.source_name.name else default

    def unsupported(self, op: str, name: str, why: str = "") -> UnsupportedOperatorError:
        what = f"operator {op} is not supported{f' {why}' if why else ''}"
        return UnsupportedOperatorError(what, where=f"{self.where}: layer {name!r}", hint=_HINT)

    # ---- helpers for the rules

    def window(
        self, data: int, out: tuple[int, ...], window: Sequence[int], attrs: Any, name: str, op: str, *, implicit: bool
    ) -> tuple[int, dict[str, Any]]:
        """Padding as SAME or VALID, with an explicit PAD where neither fits.

        Args:
            implicit: SAME keeps its meaning (padding does not count, or is zero); otherwise always pad explicitly.
        """
        strides = tuple(int(s) for s in attrs.strides)
        dilation = tuple(int(d) for d in getattr(attrs, "dilation", (1, 1)))
        size = self.tensors[data].shape[1:3]
        padding = _four(attrs.padding)
        for i in (0, 1):  # ceil mode reads beyond the padding
            reach = (window[i] - 1) * dilation[i] + 1
            if (size[i] + padding[i] + padding[i + 2] - reach) // strides[i] + 1 != out[i + 1]:
                raise self.unsupported(op, name, "with ceil_mode")
        options: dict[str, Any] = {"stride": strides, "dilation": dilation, "padding": "VALID"}
        if not any(padding):
            return data, options
        same = [conv_output_size(size[i], window[i], strides[i], dilation[i], "SAME") for i in (0, 1)]
        if implicit and tuple(same) == tuple(out[1:3]):
            pairs = [same_padding(size[i], window[i], strides[i], dilation[i], same[i]) for i in (0, 1)]
            if (pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]) == padding:
                return data, {**options, "padding": "SAME"}
        return self.pad(data, ((0, 0), (padding[0], padding[2]), (padding[1], padding[3]), (0, 0)), name), options

    def pad(self, data: int, amounts: Sequence[Sequence[int]], name: str) -> int:
        shape = tuple(d + sum(a) for d, a in zip(self.tensors[data].shape, amounts, strict=True))
        widths = self.constant(f"{name}/paddings", np.array(amounts, np.int32))
        return self.emit("PAD", (data, widths), f"{name}/pad", shape)

    def is_not_negative(self, index: int) -> bool:
        """Whether a tensor's values are known to be >= 0."""
        maker = next((op for op in self.operators if index in op.outputs), None)
        if maker is None:
            return False
        if maker.op in ("RELU", "RELU6", "SOFTMAX", "LOGISTIC"):
            return True
        if maker.op in ("MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "RESHAPE", "TRANSPOSE", "CONCATENATION", "ADD"):
            return all(self.is_not_negative(i) for i in maker.inputs if not self.tensors[i].is_constant)
        return False


Rule = Callable[[_Walker, Any, str, list[int]], int]


def _four(padding: Any) -> tuple[int, int, int, int]:
    values = [int(p) for p in padding]
    if len(values) == 1:
        values *= 4
    elif len(values) == 2:
        values *= 2
    return values[0], values[1], values[2], values[3]


def _conv2d(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    attrs, out = call.attrs, _shape(call)
    weights = w.tensors[inputs[1]].data
    if attrs.data_layout != "NHWC" or attrs.kernel_layout not in ("HWIO", "HWOI") or weights is None:
        raise w.unsupported("nn.conv2d", name, f"in layout {attrs.data_layout}/{attrs.kernel_layout}")
    height, width = weights.shape[:2]
    data, options = w.window(inputs[0], out, (height, width), attrs, name, "nn.conv2d", implicit=True)
    channels, groups = w.tensors[data].shape[3], int(attrs.groups)
    if groups == channels and (groups > 1 or out[3] == 1):
        multiplier = out[3] // channels
        kernel = w.constant(f"{name}/weights", weights.reshape(1, height, width, out[3]))
        return w.emit("DEPTHWISE_CONV_2D", (data, kernel), name, out, **options, multiplier=multiplier)
    if attrs.kernel_layout != "HWIO":
        raise w.unsupported("nn.conv2d", name, f"with {groups} groups")
    kernel = w.constant(f"{name}/weights", np.ascontiguousarray(weights.transpose(3, 0, 1, 2)))
    return w.emit("CONV_2D", (data, kernel), name, out, **options)


def _dense(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    if not w.tensors[inputs[1]].is_constant:
        raise w.unsupported("nn.dense", name, "with computed weights")
    return w.emit("FULLY_CONNECTED", inputs, name, _shape(call))


def _pool(op: str) -> Rule:
    def rule(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
        attrs, out = call.attrs, _shape(call)
        relay_name = call.op.name
        if attrs.layout != "NHWC" or any(int(d) != 1 for d in attrs.dilation):
            raise w.unsupported(relay_name, name, "with this layout or dilation")
        window = tuple(int(p) for p in attrs.pool_size)
        padded = any(_four(attrs.padding))
        counted = op == "AVERAGE_POOL_2D" and bool(attrs.count_include_pad)
        data, options = w.window(inputs[0], out, window, attrs, name, relay_name, implicit=not counted)
        if padded and options["padding"] == "VALID" and not counted:  # zeros were put in; are they harmless?
            if op == "AVERAGE_POOL_2D":
                raise w.unsupported(relay_name, name, "with uncounted padding that is not SAME")
            if not w.is_not_negative(inputs[0]):
                raise w.unsupported(relay_name, name, "with padding on values that can be negative")
        options.pop("dilation")
        return w.emit(op, (data,), name, out, **options, window=window)

    return rule


def _global_average(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    if call.attrs.layout != "NHWC":
        raise w.unsupported(call.op.name, name, f"in layout {call.attrs.layout}")
    axes = w.constant(f"{name}/axes", np.array([1, 2], np.int32))
    return w.emit("MEAN", (inputs[0], axes), name, _shape(call), keep_dims=True)


def _global_max(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    if call.attrs.layout != "NHWC":
        raise w.unsupported(call.op.name, name, f"in layout {call.attrs.layout}")
    window = w.tensors[inputs[0]].shape[1:3]
    return w.emit("MAX_POOL_2D", inputs, name, _shape(call), window=window, stride=window, padding="VALID")


def _mean(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    rank = len(w.tensors[inputs[0]].shape)
    axes = range(rank) if call.attrs.axis is None else [int(a) % rank for a in call.attrs.axis]
    if call.attrs.exclude:
        axes = [a for a in range(rank) if a not in axes]
    constant = w.constant(f"{name}/axes", np.array(sorted(axes), np.int32))
    return w.emit("MEAN", (inputs[0], constant), name, _shape(call), keep_dims=bool(call.attrs.keepdims))


def _elementwise(op: str, prepare: Callable[[NDArray], NDArray] | None = None) -> Rule:
    """``prepare`` turns the second operand, a constant, into that of ``op``: x - c is x + (-c)."""

    def rule(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
        operands = list(inputs)
        if prepare is not None:
            constant = w.tensors[operands[1]].data
            if constant is None:
                raise w.unsupported(call.op.name, name, "of two computed tensors")
            operands[1] = w.constant(f"{name}/constant", prepare(constant))
        return w.emit(op, operands, name, _shape(call), activation="NONE")

    return rule


def _bias_add(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    shape = _shape(call)
    if int(call.attrs.axis) % len(shape) != len(shape) - 1:
        raise w.unsupported("nn.bias_add", name, "that is not along the channels")
    return w.emit("ADD", inputs, name, shape, activation="NONE")


def _clip(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    low, high = float(call.attrs.a_min), float(call.attrs.a_max)
    if low == 0.0 and high == 6.0:
        return w.emit("RELU6", inputs, name, _shape(call))
    if low == 0.0 and high > 1e30:
        return w.emit("RELU", inputs, name, _shape(call))
    raise w.unsupported("clip", name, f"to [{low}, {high}], only relu and relu6 are")


def _unary(op: str) -> Rule:
    return lambda w, call, name, inputs: w.emit(op, inputs[:1], name, _shape(call))


def _softmax(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    rank = len(_shape(call))
    if int(call.attrs.axis) % rank != rank - 1:
        raise w.unsupported("nn.softmax", name, f"along axis {call.attrs.axis}, only along the last")
    return w.emit("SOFTMAX", inputs, name, _shape(call), beta=1.0)


def _concatenate(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    shape = _shape(call)
    return w.emit("CONCATENATION", inputs, name, shape, axis=int(call.attrs.axis) % len(shape), activation="NONE")


def _select(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    choice = selected(call)
    if choice is None:
        raise w.unsupported("take", name, "that is no choice of a kernel")
    return w.emit(SELECT, inputs, name, _shape(call), safe=choice[1], layer=name, **{CUSTOM: b""})


def _transposed(w: _Walker, call: Any, name: str, data: int, axes: Sequence[int]) -> int:
    permutation = w.constant(f"{name}/axes", np.array(axes, np.int32))
    return w.emit("TRANSPOSE", (data, permutation), f"{name}/transpose", _shape(call))


def _axes(call: Any) -> list[int]:
    rank = len(_shape(call))
    return list(range(rank))[::-1] if call.attrs.axes is None else [int(a) % rank for a in call.attrs.axes]


def _transpose(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    return _transposed(w, call, name, inputs[0], _axes(call))


def _permutation(call: Any) -> list[int]:
    """Axes of a layout_transform; empty if it does more than permute."""
    source, target = str(call.attrs.src_layout), str(call.attrs.dst_layout)
    if sorted(source) != sorted(target) or len(source) != len(_shape(call)):
        return []
    return [source.index(axis) for axis in target]


def _layout_transform(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    axes = _permutation(call)
    if not axes:
        raise w.unsupported("layout_transform", name, f"from {call.attrs.src_layout} to {call.attrs.dst_layout}")
    return _transposed(w, call, name, inputs[0], axes)


def _pad(w: _Walker, call: Any, name: str, inputs: list[int]) -> int:
    value = w.tensors[inputs[1]].data
    if value is None or float(np.asarray(value).reshape(-1)[0]) != 0.0 or call.attrs.pad_mode != "constant":
        raise w.unsupported("nn.pad", name, "with anything but zeros")
    amounts = [[int(v) for v in pair] for pair in call.attrs.pad_width]
    if any(v < 0 for pair in amounts for v in pair):
        raise w.unsupported("nn.pad", name, "that cuts off")
    return w.pad(inputs[0], amounts, name)


_RULES: Mapping[str, Rule] = {
    "nn.conv2d": _conv2d,
    "nn.dense": _dense,
    "nn.bias_add": _bias_add,
    "nn.max_pool2d": _pool("MAX_POOL_2D"),
    "nn.avg_pool2d": _pool("AVERAGE_POOL_2D"),
    "nn.global_avg_pool2d": _global_average,
    "nn.global_max_pool2d": _global_max,
    "mean": _mean,
    "add": _elementwise("ADD"),
    "multiply": _elementwise("MUL"),
    "subtract": _elementwise("ADD", np.negative),
    "divide": _elementwise("MUL", lambda c: (1 / c).astype(np.float32)),
    "nn.relu": _unary("RELU"),
    "clip": _clip,
    "sigmoid": _unary("LOGISTIC"),
    "tanh": _unary("TANH"),
    "nn.leaky_relu": lambda w, call, name, inputs: w.emit(
        "LEAKY_RELU", inputs, name, _shape(call), alpha=float(call.attrs.alpha)
    ),
    "nn.softmax": _softmax,
    "concatenate": _concatenate,
    "reshape": _unary("RESHAPE"),
    "nn.batch_flatten": _unary("RESHAPE"),
    "squeeze": _unary("RESHAPE"),
    "expand_dims": _unary("RESHAPE"),
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    "nn.pad": _pad,
    "take": _select,
    "copy": lambda _w, _call, _name, inputs: inputs[0],
}


def _reshaped(call: Any, x: NDArray) -> NDArray:
    return x.reshape(_shape(call))


# what imports leave to be computed from weights; Relay's FoldConstant would compile each of them
_CONSTANT_RULES: Mapping[str, Callable[..., Any]] = {
    "add": lambda _call, a, b: a + b,
    "subtract": lambda _call, a, b: a - b,
    "multiply": lambda _call, a, b: a * b,
    "divide": lambda _call, a, b: a / b,
    "negative": lambda _call, a: -a,
    "sqrt": lambda _call, a: np.sqrt(a),
    "rsqrt": lambda _call, a: 1 / np.sqrt(a),
    "cast": lambda _call, a: a,
    "expand_dims": _reshaped,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "transpose": lambda call, a: a.transpose(_axes(call)),
    "layout_transform": lambda call, a: a.transpose(_permutation(call)),
}
