"""MorphConvolutions: a trained network of 3x3 convolutions becomes one whose convolutions morph, without training.

Every kernel of every layer is fitted to the trained 3x3 (:mod:`rqdkm_tvm.morph.fit`), layer by layer in the order of
execution, on what the layer gets while that kernel is selected in the whole network: as it is on the chip. What lies
between the convolutions TVM computes, once compiled for all kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError, ModelError, PlanError
from rqdkm_tvm.evaluate import compiled
from rqdkm_tvm.graph import Rewriter, calls, module_pass, op_name, outputs, rebuild, source_name, users, with_main
from rqdkm_tvm.morph.fit import FITS, Convolution, Examples
from rqdkm_tvm.morph.gather import select
from rqdkm_tvm.morph.library import MOST_PATHS
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.tvm_import import relay

Expr = Any
Floats = npt.NDArray[np.float32]

KERNELS = ("3x3", "3x3 + 1x1", "separable 3x3")  # those that pay without training (docs/morph.md)
HELD_OUT = 5  # every fifth sample judges and is not fitted on
SAFE = 0  # the trained kernel itself
LEAST_CHANNELS = 8  # of input and result: below, other kernels save nothing
ROWS = 16384  # output pixels of all samples that a layer is fitted on
_UNLIMITED = 1e30  # a clip that is a relu


@dataclass(frozen=True, eq=False)
class Site:
    """A convolution that can morph: its call, and the result behind bias and activation function."""

    name: str
    call: Expr
    result: Expr
    trained: Convolution
    low: float
    high: float

    @property
    def source(self) -> Expr:
        return self.call.args[0]

    def activated(self, y: Floats) -> Floats:
        return np.clip(y, self.low, self.high) if (self.low, self.high) != (-np.inf, np.inf) else y


@dataclass(frozen=True)
class Account:
    """How well a kernel stands for the trained network on samples it was not fitted on, in float.

    Args:
        samples: how many.
        sqnr_db: of the outputs, 10 log10(sum y^2 / sum (y - y')^2).
        agreement: fraction of the samples with the same largest output.
        layers: SQNR of every converted layer's result, by name.
    """

    kernel: str
    samples: int
    sqnr_db: float
    agreement: float
    layers: Mapping[str, float]


@dataclass(frozen=True)
class Converted:
    """A module with :func:`~rqdkm_tvm.morph.gather.select` in it, and what became of its kernels."""

    module: Any
    accounts: tuple[Account, ...]


def MorphConvolutions(inputs: Sequence[Floats], kernels: Sequence[str] = KERNELS) -> Any:  # noqa: N802 (as TVM's)
    """Pass: 3x3 convolutions of a float module get alternatives; :func:`convert` with its account left out."""
    return module_pass("MorphConvolutions", lambda mod: convert(mod, inputs, kernels).module)


def convert(
    mod: Any,
    inputs: Sequence[Floats],
    kernels: Sequence[str] = KERNELS,
    progress: Callable[[str], None] = lambda _text: None,
) -> Converted:
    """Give every 3x3 convolution (:func:`find`) the given kernels.

    Args:
        mod: float, NHWC, weights bound as constants, types inferred.
        inputs: per parameter of ``main`` samples (n, *shape without batch). A few hundred: what the kernels learn of
            the network is what it does on these. A fifth of them is kept to judge by.
        kernels: names out of :data:`rqdkm_tvm.morph.fit.FITS`; the first one is "3x3", the trained one.

    Raises:
        PlanError: kernels that there are not.
        ModelError: no convolution can morph.
        DataError: no samples.
    """
    wrong = [name for name in kernels if name not in FITS]
    if wrong or not kernels or kernels[0] != "3x3" or len(set(kernels)) != len(kernels) or len(kernels) > MOST_PATHS:
        raise PlanError(
            f"kernels {list(kernels)} cannot be" if not wrong else f'there is no kernel "{wrong[0]}"',
            where="MorphConvolutions",
            hint=f"3x3 first, then up to {MOST_PATHS - 1} of: {', '.join(list(FITS)[1:])}",
        )
    if not inputs or len(inputs[0]) < HELD_OUT:
        raise DataError(
            f"kernels are fitted on samples, and {HELD_OUT} is the least",
            where="MorphConvolutions",
            hint="pass a few hundred that look like what the device will see",
        )
    function = mod["main"]
    sites = find(function)
    if not sites:
        raise ModelError(
            "no convolution can morph",
            where="MorphConvolutions",
            hint=f"3x3, undilated, padded to keep the size, at least {LEAST_CHANNELS} channels in and out",
        )
    segments = _Segments(function, sites, inputs)
    trained: dict[Site, Floats] = {}
    examples: dict[Site, Examples] = {}
    for site in sites:
        x = segments.source(site, trained)
        trained[site] = site.activated(site.trained.run(x))
        examples[site] = _examples(site, x)
    judging = np.arange(len(inputs[0])) % HELD_OUT == HELD_OUT - 1
    wanted = segments.output(trained)[judging]
    made: dict[Site, list[tuple[Convolution, ...]]] = {site: [] for site in sites}
    accounts = []
    for kernel in kernels:
        results: dict[Site, Floats] = {}
        ratios = {}
        for site in sites:
            progress(f'fitting "{kernel}" to layer {site.name}')
            y = segments.source(site, results)
            made[site].append(FITS[kernel](site.trained, replace(examples[site], x=y)))
            for convolution in made[site][-1]:
                y = convolution.run(y)
            results[site] = site.activated(y)
            ratios[site.name] = _sqnr(trained[site][judging], results[site][judging])
        found = segments.output(results)[judging]
        agreement = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
        accounts.append(Account(kernel, len(wanted), _sqnr(wanted, found), agreement, ratios))
    return Converted(with_main(mod, _rewritten(function, kernels, made)), tuple(accounts))


def _sqnr(wanted: Floats, found: Floats) -> float:
    noise = float(np.square(wanted.astype(np.float64) - found).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(wanted.astype(np.float64)).sum() / noise))


# ---- what can morph


def find(function: Expr) -> list[Site]:
    """3x3 convolutions that keep the size of the map but for the stride, in execution order."""
    readers = users(function)
    found: list[Site] = []
    taken: set[str] = set()
    for call in calls(function):
        if op_name(call) != "nn.conv2d" or not _fits(call):
            continue
        weights = call.args[1].data.numpy()
        bias, result, low, high = np.zeros(weights.shape[3], np.float32), call, -np.inf, np.inf
        after = _only(readers, result)
        if after is not None and op_name(after) in ("nn.bias_add", "add"):
            constant = after.args[1]
            if isinstance(constant, relay.Constant) and constant.data.numpy().size == weights.shape[3]:
                bias, result = constant.data.numpy().reshape(-1), after
                after = _only(readers, result)
        if after is not None and op_name(after) == "nn.relu":
            low, result = 0.0, after
        elif after is not None and op_name(after) == "clip":
            low, high, result = float(after.attrs.a_min), float(after.attrs.a_max), after
            high = np.inf if high > _UNLIMITED else high
        rows, columns = (int(v) for v in call.attrs.strides)
        top, left, bottom, right = (int(v) for v in call.attrs.padding)
        values = weights.astype(np.float32), bias.astype(np.float32)
        trained = Convolution(*values, (rows, columns), (top, left, bottom, right))
        name = base = source_name(call) or "conv2d"
        while name in taken:
            name = f"{base}_{len(taken)}"
        taken.add(name)
        found.append(Site(name, call, result, trained, low, high))
    return found


def _fits(call: Expr) -> bool:
    attrs, weights = call.attrs, call.args[1]
    if attrs.data_layout != "NHWC" or attrs.kernel_layout != "HWIO" or not isinstance(weights, relay.Constant):
        return False
    shape, source, result = weights.data.numpy().shape, shape_of(call.args[0]), shape_of(call)
    if shape[:2] != (3, 3) or int(attrs.groups) != 1 or min(shape[2:]) < LEAST_CHANNELS or source[0] != 1:
        return False
    if any(int(d) != 1 for d in attrs.dilation) or len(attrs.padding) != 4:
        return False
    top, left, bottom, right = (int(p) for p in attrs.padding)
    for i, (before, behind) in enumerate(((top, bottom), (left, right))):
        size, stride = source[1 + i], int(attrs.strides[i])
        total = max(0, (-(-size // stride) - 1) * stride + 3 - size)  # TensorFlow's "same"
        if result[1 + i] != -(-size // stride) or (before, behind) != (total // 2, total - total // 2):
            return False
    return True


def _only(readers: Mapping[Expr, list[Expr]], expr: Expr) -> Expr | None:
    """The one call that reads ``expr``."""
    found = readers.get(expr, [])
    return found[0] if len(found) == 1 and isinstance(found[0], relay.Call) else None


# ---- running the network


class _Segments:
    """What lies between convolutions: functions of the model's inputs and of convolutions' results, compiled."""

    def __init__(self, function: Expr, sites: Sequence[Site], inputs: Sequence[Floats]) -> None:
        self.function, self.sites = function, list(sites)
        self.samples = [np.asarray(x, np.float32) for x in inputs]
        self.found: dict[Any, tuple[list[Any], Callable[..., list[Floats]]]] = {}

    def output(self, results: Mapping[Site, Floats]) -> Floats:
        """The first output, (n, values)."""
        found = self._run(None, outputs(self.function)[0], results)
        return found.reshape(len(found), -1)

    def source(self, site: Site, results: Mapping[Site, Floats]) -> Floats:
        """What the convolution reads."""
        return self._run(site, site.source, results)

    def _run(self, key: Site | None, wanted: Expr, results: Mapping[Site, Floats]) -> Floats:
        if key not in self.found:
            self.found[key] = self._compiled(wanted)
        needed, run = self.found[key]
        count = len(self.samples[0])
        given = [self.samples[x] if isinstance(x, int) else results[x] for x in needed]
        return np.concatenate([run([x[i : i + 1] for x in given])[0] for i in range(count)])

    def _compiled(self, wanted: Expr) -> tuple[list[Any], Callable[..., list[Floats]]]:
        """Inputs (numbers of the model's, or sites) and the function."""
        known = {site.result: site for site in self.sites}
        inner: dict[Any, Expr] = {}

        class Cut(relay.ExprMutator):  # type: ignore[misc]
            def visit(self, expr: Expr) -> Expr:
                if expr in known:
                    site = known[expr]
                    if site not in inner:
                        inner[site] = relay.var(f"cut{len(inner)}", expr.checked_type)
                    return inner[site]
                return super().visit(expr)

        body = Cut().visit(wanted)
        params = list(self.function.params)
        used = set(relay.analysis.free_vars(body))
        chosen = [i for i, var in enumerate(params) if var in used]
        variables = [*(params[i] for i in chosen), *inner.values()]
        names = [str(var.name_hint) for var in variables]
        return [*chosen, *inner], compiled(relay.Function(variables, body), names)


def _examples(site: Site, source: Floats) -> Examples:
    """Some pixels of the trained network; the same ones for every kernel."""
    _, rows, columns, _ = shape_of(site.call)
    pixels = np.arange(len(source) * rows * columns)
    fitted = pixels[pixels // (rows * columns) % HELD_OUT != HELD_OUT - 1]
    where = np.sort(np.random.default_rng(0).permutation(fitted)[:ROWS])
    patches = site.trained.patches(source, where).reshape(len(where), -1)
    y = patches @ site.trained.weights.reshape(-1, site.trained.weights.shape[3]) + site.trained.bias
    return Examples(source, y, where, site.low, site.high)


# ---- the module


def _rewritten(function: Expr, kernels: Sequence[str], made: Mapping[Site, list[tuple[Convolution, ...]]]) -> Expr:
    by_result = {site.result: site for site in made}

    class Converting(Rewriter):
        def rewrite(self, call: Expr, original: Expr) -> Expr:
            site = by_result.get(original)
            if site is None:
                return call
            source = self.visit(site.source)
            paths = [_path(source, site, kernel, chain) for kernel, chain in zip(kernels, made[site], strict=True)]
            return select(paths, SAFE, _span(site.name))

    return rebuild(function, Converting().run(function))


def _span(name: str) -> Any:
    return relay.Span(relay.SourceName(name), 0, 0, 0, 0)


def _path(x: Expr, site: Site, kernel: str, chain: Sequence[Convolution]) -> Expr:
    for number, convolution in enumerate(chain):
        title = f"{site.name}/{kernel}" if len(chain) == 1 else f"{site.name}/{kernel}/{number}"
        span = _span(title)
        x = _convolution(x, convolution, span)
    if site.low == 0.0 and site.high == np.inf:
        return _named(relay.nn.relu(x), span)
    return _named(relay.clip(x, site.low, site.high), span) if (site.low, site.high) != (-np.inf, np.inf) else x


def _named(call: Expr, span: Any) -> Expr:
    return relay.Call(call.op, call.args, call.attrs, call.type_args, span)


def _convolution(x: Expr, convolution: Convolution, span: Any) -> Expr:
    weights = convolution.weights
    channels = weights.shape[2] if convolution.depthwise else weights.shape[3]
    y = relay.nn.conv2d(
        x,
        relay.const(weights),
        strides=convolution.strides,
        padding=convolution.padding,
        dilation=(convolution.dilation, convolution.dilation),
        groups=channels if convolution.depthwise else 1,
        channels=channels,
        kernel_size=weights.shape[:2],
        data_layout="NHWC",
        kernel_layout="HWOI" if convolution.depthwise else "HWIO",
    )
    return _named(relay.nn.bias_add(_named(y, span), relay.const(convolution.bias), axis=3), span)
