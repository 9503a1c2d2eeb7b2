"""Relay gradients against central finite differences and against TensorFlow's, by operator and for whole networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tvm.contrib import graph_executor

from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.sensitivity import gradients
from rqdkm_tvm.tvm_import import relay, tvm
from tests.sensitivity import tensorflow_fixture

Expr = Any
conv2d = relay.nn.conv2d
NHWC = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
TOLERANCE = 2e-3  # of float32 central differences, relative to the largest gradient


def program(function: Expr) -> Callable[..., tuple[np.ndarray, list[np.ndarray]]]:
    """``function`` with its gradients as one compiled program."""
    normal = relay.transform.ToGraphNormalForm()(tvm.IRModule.from_expr(function))
    with tvm.transform.PassContext(opt_level=1, config={"tir.disable_cse_tir": True}):
        built = graph_executor.GraphModule(relay.build(normal, target="llvm")["default"](tvm.cpu()))

    def run(*values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        for index, value in enumerate(values):
            built.set_input(index, value)
        built.run()
        result, *grads = (built.get_output(i).numpy() for i in range(built.get_num_outputs()))
        return result, grads

    return run


@dataclass(frozen=True)
class Case:
    """A function of float arguments of these shapes; small steps for functions with corners."""

    build: Callable[..., Expr]
    shapes: tuple[tuple[int, ...], ...]
    step: float = 4e-3


def worst_errors(cases: dict[str, Case], seed: int = 0) -> dict[str, float]:
    """By case: largest difference of a directional derivative from a central difference, relative to the gradient.

    Results are weighted at random, so that errors of single elements cannot cancel. All cases are compiled as one
    program, each with arguments of its own and one element of the result.
    """
    rng = np.random.default_rng(seed)
    params, results, owners = [], [], []
    for name, case in cases.items():
        own = [relay.var(f"v{len(params) + i}", shape=s, dtype="float32") for i, s in enumerate(case.shapes)]
        result = case.build(*own)
        extents = [int(d) for d in relay.transform.InferTypeLocal(result).shape]
        weight = relay.const(rng.normal(size=extents).astype(np.float32))
        results.append(relay.reshape(relay.sum(result * weight), (1,)))
        params += own
        owners += [name] * len(own)
    run = program(gradients.gradient(relay.Function(params, relay.concatenate(results, axis=0))))
    values = [rng.normal(size=[int(d) for d in p.type_annotation.shape]).astype(np.float32) for p in params]
    _, found = run(*values)
    worst = dict.fromkeys(cases, 0.0)
    for index, (value, name) in enumerate(zip(values, owners, strict=True)):
        assert found[index].shape == value.shape
        step, element = cases[name].step, list(cases).index(name)
        for _ in range(3):
            direction = rng.normal(size=value.shape)
            direction = (direction / np.linalg.norm(direction)).astype(np.float32)
            ends = []
            for sign in (1, -1):
                moved = list(values)
                moved[index] = value + np.float32(sign * step) * direction
                ends.append(float(run(*moved)[0][element]))
            difference = (ends[0] - ends[1]) / (2 * step) - float((found[index] * direction).sum())
            worst[name] = max(worst[name], abs(difference) / (float(np.linalg.norm(found[index])) + 1e-6))
    return worst


def assert_right(cases: dict[str, Case]) -> None:
    errors = worst_errors(cases)
    # a smaller step lets more of float32's rounding through
    limits = {name: TOLERANCE if case.step > 1e-3 else 10 * TOLERANCE for name, case in cases.items()}
    assert {name: error for name, error in errors.items() if not error < limits[name]} == {}


CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "plain": ({"padding": (1, 1)}, (1, 6, 7, 3), (3, 3, 3, 4)),
    "valid": ({}, (1, 6, 6, 2), (3, 2, 2, 3)),
    "batch": ({"padding": (1, 1)}, (2, 5, 5, 2), (3, 3, 2, 3)),
    "stride": ({"padding": (1, 1), "strides": (2, 2)}, (1, 9, 8, 3), (3, 3, 3, 4)),
    "stride leaves a rest": ({"strides": (3, 2)}, (1, 9, 8, 2), (2, 3, 2, 3)),
    "unequal padding": ({"padding": (0, 1, 2, 1), "strides": (2, 1)}, (1, 7, 6, 2), (3, 3, 2, 3)),
    "dilation": ({"padding": (2, 2), "dilation": (2, 2)}, (1, 8, 8, 2), (3, 3, 2, 3)),
    "dilation and stride": ({"padding": (1, 2), "dilation": (1, 2), "strides": (2, 1)}, (1, 8, 9, 2), (3, 3, 2, 3)),
    "pointwise": ({}, (1, 4, 4, 6), (1, 1, 6, 5)),
    "pointwise stride": ({"strides": (2, 2)}, (1, 5, 5, 4), (1, 1, 4, 5)),
    "groups": ({"padding": (1, 1), "groups": 2}, (1, 5, 5, 4), (3, 3, 2, 6)),
    "tall kernel": ({"padding": (4, 1, 5, 1), "strides": (2, 2)}, (1, 11, 6, 1), (10, 4, 1, 3)),
}


def test_convolution() -> None:
    assert_right(
        {
            name: Case(
                lambda x, w, a=attrs, k=weight: conv2d(x, w, channels=k[3], kernel_size=k[:2], **NHWC, **a),
                (data, weight),
            )
            for name, (attrs, data, weight) in CONVOLUTIONS.items()
        }
    )


def test_depthwise_convolution() -> None:
    def case(layout: str, multiplier: int, attrs: dict[str, Any]) -> Case:
        common = {"groups": 4, "channels": 4 * multiplier, "kernel_size": (3, 3)}
        kernel = (3, 3, 4, multiplier) if layout == "HWOI" else (3, 3, 1, 4)
        return Case(
            lambda x, w: conv2d(x, w, data_layout="NHWC", kernel_layout=layout, **common, **attrs),
            ((1, 6, 7, 4), kernel),
        )

    paddings = [{"padding": (1, 1)}, {"padding": (0, 0, 1, 1), "strides": (2, 2)}, {}]
    forms = [("HWOI", 1), ("HWOI", 2), ("HWIO", 1)]
    assert_right({f"{form} {attrs}": case(*form, attrs) for form in forms for attrs in paddings})


def test_convolution_in_nchw() -> None:
    def build(x: Expr, w: Expr) -> Expr:
        return conv2d(x, w, padding=(1, 1), strides=(2, 2), channels=4, kernel_size=(3, 3))

    assert_right({"nchw": Case(build, ((1, 3, 7, 7), (4, 3, 3, 3)))})


nn = relay.nn
# operator, shapes of its arguments, step of the differences (small where the function has corners)
OPERATORS: dict[str, tuple[Callable[..., Expr], tuple[tuple[int, ...], ...], float]] = {
    "pad": (lambda x: nn.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), 0.5), ((1, 3, 4, 2),), 4e-3),
    "max pool": (lambda x: nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"), ((1, 6, 6, 3),), 1e-3),
    "max pool, overlapping": (
        lambda x: nn.max_pool2d(x, (3, 3), (2, 2), padding=(1, 1, 0, 0), layout="NHWC"),
        ((1, 7, 6, 2),),
        1e-3,
    ),
    "average pool": (lambda x: nn.avg_pool2d(x, (2, 3), (2, 3), layout="NHWC"), ((1, 6, 6, 3),), 4e-3),
    "average pool, padded": (
        lambda x: nn.avg_pool2d(x, (3, 3), (2, 2), padding=(1, 1, 1, 1), layout="NHWC", count_include_pad=False),
        ((1, 5, 7, 2),),
        4e-3,
    ),
    "global average pool": (lambda x: nn.global_avg_pool2d(x, layout="NHWC"), ((1, 5, 4, 3),), 4e-3),
    "global max pool": (lambda x: nn.global_max_pool2d(x, layout="NHWC"), ((1, 5, 4, 3),), 1e-3),
    "mean": (lambda x: relay.mean(x, axis=(1, 2)), ((1, 5, 4, 3),), 4e-3),
    "mean, negative axis": (lambda x: relay.mean(x, axis=(-1,), keepdims=True), ((1, 5, 4, 3),), 4e-3),
    "mean, axes excluded": (lambda x: relay.mean(x, axis=(0, 3), exclude=True), ((1, 5, 4, 3),), 4e-3),
    "clip between fractions": (lambda x: relay.clip(x, -0.25, 0.75), ((1, 5, 4, 3),), 1e-4),
    "relu": (lambda x: nn.relu(x), ((1, 5, 4, 3),), 1e-4),
    "leaky relu": (lambda x: nn.leaky_relu(x, 0.3), ((1, 5, 4, 3),), 1e-4),
    "concatenate": (lambda a, b: relay.concatenate((a, b, a), axis=-1), ((1, 3, 3, 2), (1, 3, 3, 4)), 4e-3),
    "add, broadcast": (relay.add, ((1, 4, 4, 3), (1, 1, 1, 3)), 4e-3),
    "multiply, broadcast": (relay.multiply, ((1, 4, 4, 3), (1, 1, 1, 3)), 4e-3),
    "bias": (lambda x, b: nn.bias_add(x, b, axis=3), ((1, 4, 4, 3), (3,)), 4e-3),
    "dense": (lambda x, w: nn.dense(x, w), ((2, 6), (4, 6)), 4e-3),
    "softmax": (lambda x: nn.softmax(x), ((2, 6),), 4e-3),
    "sigmoid": (relay.sigmoid, ((2, 6),), 4e-3),
    "tanh": (relay.tanh, ((2, 6),), 4e-3),
    "reshape": (lambda x: relay.reshape(x, (6, 4)), ((1, 2, 3, 4),), 4e-3),
}


def test_operators() -> None:
    assert_right({name: Case(*row) for name, row in OPERATORS.items()})


def residual_network(x: Expr, w0: Expr, w1: Expr, w2: Expr, b: Expr, w3: Expr) -> Expr:
    first = relay.tanh(conv2d(x, w0, padding=(1, 1), channels=4, kernel_size=(3, 3), **NHWC))
    second = conv2d(first, w1, padding=(1, 1), channels=4, kernel_size=(3, 3), **NHWC)
    joined = relay.tanh(nn.bias_add(relay.add(first, second), b, axis=3))
    down = conv2d(joined, w2, strides=(2, 2), channels=6, kernel_size=(1, 1), **NHWC)
    return nn.dense(nn.batch_flatten(nn.avg_pool2d(down, (2, 2), (2, 2), layout="NHWC")), w3)


def separable_network(x: Expr, w0: Expr, w1: Expr, w2: Expr, w3: Expr) -> Expr:
    first = relay.sigmoid(conv2d(x, w0, padding=(0, 0, 1, 1), strides=(2, 2), channels=4, kernel_size=(3, 3), **NHWC))
    depthwise = {"groups": 4, "channels": 4, "kernel_size": (3, 3), "data_layout": "NHWC", "kernel_layout": "HWOI"}
    second = relay.tanh(conv2d(first, w1, padding=(1, 1), **depthwise))
    third = relay.tanh(conv2d(second, w2, channels=6, kernel_size=(1, 1), **NHWC))
    return nn.log_softmax(nn.dense(relay.mean(third, axis=(1, 2)), w3))


NETWORKS: dict[str, tuple[Callable[..., Expr], tuple[tuple[int, ...], ...]]] = {
    "residual": (residual_network, ((1, 8, 8, 3), (3, 3, 3, 4), (3, 3, 4, 4), (1, 1, 4, 6), (4,), (5, 24))),
    "separable": (separable_network, ((1, 8, 8, 3), (3, 3, 3, 4), (3, 3, 4, 1), (1, 1, 4, 6), (5, 6))),
}


def test_whole_networks() -> None:
    assert_right({name: Case(*row) for name, row in NETWORKS.items()})


# ---- TensorFlow


def network_in_relay(name: str, values: list[np.ndarray]) -> Expr:
    """The cross-entropy of a network of the fixture as a function of its values."""
    params = [relay.var(f"v{i}", shape=v.shape, dtype="float32") for i, v in enumerate(values)]
    weights = iter(params[1:])
    x, saved = params[0], None
    for op, a in tensorflow_fixture.NETWORKS[name]["layers"]:
        if op == "save":
            saved = x
        elif op in ("conv", "depthwise"):
            x = window_in_relay(op, a, x, next(weights))
        elif op == "dense":
            x = nn.dense(x, relay.transpose(next(weights)))
        elif op in ("avg_pool", "max_pool"):
            size = (a["size"], a["size"])
            attrs = {"strides": (a["stride"],) * 2, "padding": padding(a, x, size), "layout": "NHWC"}
            x = nn.max_pool2d(x, size, **attrs) if op == "max_pool" else nn.avg_pool2d(x, size, **attrs)
        else:
            x = SIMPLE[op](x, saved, a)
    probabilities = nn.log_softmax(x)
    target = relay.const(np.eye(int(relay.transform.InferTypeLocal(x).shape[1]), dtype=np.float32)[1:2])
    return relay.Function(params, relay.negative(relay.sum(probabilities * target)))


SIMPLE: dict[str, Callable[[Expr, Expr, dict[str, Any]], Expr]] = {
    "relu": lambda x, _saved, _a: nn.relu(x),
    "relu6": lambda x, _saved, _a: relay.clip(x, 0.0, 6.0),
    "leaky_relu": lambda x, _saved, a: nn.leaky_relu(x, a["alpha"]),
    "tanh": lambda x, _saved, _a: relay.tanh(x),
    "sigmoid": lambda x, _saved, _a: relay.sigmoid(x),
    "add": lambda x, saved, _a: relay.add(x, saved),
    "concatenate": lambda x, saved, _a: relay.concatenate((x, saved), axis=3),
    "mean": lambda x, _saved, _a: relay.mean(x, axis=(1, 2)),
    "flatten": lambda x, _saved, _a: nn.batch_flatten(x),
}


def padding(a: dict[str, Any], x: Expr, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    if a["padding"] == "VALID":
        return (0, 0, 0, 0)
    sizes = [int(d) for d in relay.transform.InferTypeLocal(x).shape][1:3]
    both = [tensorflow_fixture.same_padding(size, k, a["stride"]) for size, k in zip(sizes, kernel, strict=True)]
    return (both[0][0], both[1][0], both[0][1], both[1][1])


def window_in_relay(op: str, a: dict[str, Any], x: Expr, weight: Expr) -> Expr:
    kernel = (a["kernel"][0], a["kernel"][1])
    channels = int(relay.transform.InferTypeLocal(x).shape[3])
    return conv2d(
        x,
        weight,
        strides=(a["stride"],) * 2,
        padding=padding(a, x, kernel),
        groups=channels if op == "depthwise" else a.get("groups", 1),
        channels=channels * a["multiplier"] if op == "depthwise" else a["filters"],
        kernel_size=kernel,
        data_layout="NHWC",
        kernel_layout="HWOI" if op == "depthwise" else "HWIO",
    )


@pytest.mark.parametrize("name", tensorflow_fixture.NETWORKS)
def test_networks_against_tensorflow(name: str) -> None:
    stored = np.load(tensorflow_fixture.FILE)
    assert json.loads(str(stored["networks"])) == tensorflow_fixture.NETWORKS, "run tensorflow_fixture.py again"
    count = sum(key.startswith(f"{name}/value") for key in stored.files)
    values = [stored[f"{name}/value{i}"] for i in range(count)]
    loss, found = program(gradients.gradient(network_in_relay(name, values)))(*values)
    assert float(loss) == pytest.approx(float(stored[f"{name}/loss"]), rel=1e-5)
    for index in range(count):
        expected = stored[f"{name}/gradient{index}"]
        assert np.linalg.norm(expected) > 1e-3
        assert np.abs(found[index] - expected).max() < 5e-6 * np.abs(expected).max()


def test_the_fixture_is_small() -> None:
    assert tensorflow_fixture.FILE.stat().st_size < 50_000


def test_installing_twice_changes_nothing() -> None:
    gradients.install()
    gradients.install()
    assert relay.op.get("nn.pad").get_attr("FPrimalGradient") is not None


def test_an_operator_without_gradient_is_named() -> None:
    x = relay.var("x", shape=(1, 4), dtype="float32")
    with pytest.raises(UnsupportedOperatorError, match=r"floor_divide|gradient"):
        gradients.gradient(relay.Function([x], relay.sum(relay.floor_divide(x, x))))
