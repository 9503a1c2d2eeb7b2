"""Depthwise convolution of a single input channel: with one channel it is an ordinary convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.conv2d import pareto
from rqdkm_tvm.kernels.depthwise_conv2d import reject_depthwise
from rqdkm_tvm.kernels.registry import Config, Elements, Kernel, Rows, register
from rqdkm_tvm.layer import KernelCall, Layer


def as_convolution(layer: Layer) -> Layer:
    """The same layer as ``conv2d``: weights (1, KH, KW, M) become (M, KH, KW, 1)."""
    assert layer.weights is not None
    attrs = {key: value for key, value in layer.attrs.items() if key != "multiplier"}
    weights = np.ascontiguousarray(np.transpose(layer.weights, (3, 1, 2, 0)))
    return replace(layer, op="conv2d", weights=weights, attrs={**attrs, "groups": 1})


@register
class DepthwiseAsConv(Kernel):
    """Whatever convolution kernel does it best. Config: ``conv2d``, that kernel's name, and its own configuration."""

    name = "depthwise_conv2d_s8_as_conv2d"
    ops = ("depthwise_conv2d",)
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        reason = reject_depthwise(layer)
        if reason is not None:
            return reason
        if layer.inputs[0].shape[3] != 1:
            return "only one input channel"
        return None if self._candidates(as_convolution(layer)) else "no convolution kernel accepts it"

    def parts(self, layer: Layer, config: Config) -> Rows | Elements | None:
        kernel, inner = _inner(config)
        return kernel.parts(as_convolution(layer), inner)

    def configs(self, layer: Layer) -> list[Config]:
        conv = as_convolution(layer)
        return pareto(
            (
                kernel.estimate_cycles(conv, config),
                kernel.scratch_bytes(conv, config),
                {"conv2d": kernel.name, **config},
            )
            for kernel, config in self._candidates(conv)
        )

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        kernel, inner = _inner(config)
        return kernel.scratch_bytes(as_convolution(layer), inner)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        kernel, inner = _inner(config)
        return kernel.estimate_cycles(as_convolution(layer), inner)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        kernel, inner = _inner(config)
        return replace(kernel.lower(as_convolution(layer), inner), kernel=self.name, config=config)

    @staticmethod
    def _candidates(conv: Layer) -> list[tuple[Kernel, Config]]:
        return [(kernel, config) for kernel, config in registry.candidates(conv) if not kernel.reference]


def _inner(config: Mapping[str, int | str | bool]) -> tuple[Kernel, Config]:
    return registry.get(str(config["conv2d"])), {key: value for key, value in config.items() if key != "conv2d"}
