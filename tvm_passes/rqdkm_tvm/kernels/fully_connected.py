"""Fully connected layers, int8."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.conv2d import FORM_NAMES, bias_of, bits_constant
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.lanes import SUM_SHIFT, Finish, Form, choose_finish
from rqdkm_tvm.kernels.pack import (
    channel_bits,
    lane_bias,
    pack_channels,
    pack_fours,
    pack_groups,
    pack_pair_quant,
    pad_taps,
    round_up,
    widest,
)
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.kernels.requantize import (
    accumulator_bounds,
    fully_connected_multipliers,
)
from rqdkm_tvm.layer import KernelCall, Layer, NDArray


def reject_fully_connected(layer: Layer) -> str | None:
    """What no int8 fully connected kernel can do."""
    if layer.inputs[0].dtype != "int8" or layer.output.dtype != "int8":
        return "tensors must be int8"
    if layer.weights is None or layer.weights.dtype != np.int8 or layer.weights.ndim != 2:
        return "weights must be constant int8 (O, I)"
    outputs, inputs = layer.weights.shape
    if layer.inputs[0].size % inputs or layer.output.size != layer.inputs[0].size // inputs * outputs:
        return "input must be (batches, I) and output (batches, O)"
    return None


@lru_cache(maxsize=256)
def _plan_finish(key: ByArithmetic) -> Finish | None:
    """The cheapest exact form, for symmetric weights; None where the fast kernel cannot hold the accumulator."""
    layer = key.layer
    assert layer.weights is not None
    outputs = layer.weights.shape[0]
    return choose_finish(
        accumulator_bounds(layer.weights, bias_of(layer, outputs), layer.inputs[0].zero_point),
        *fully_connected_multipliers(layer, outputs),
        layer.output.zero_point,
        tuple(layer.attrs["clamp"]),
        (Form.SHIFT, Form.AWAY_SHIFT),
        SUM_SHIFT,
    )


def fast_form(layer: Layer) -> Finish | None:
    """How the fast kernel requantizes ``layer``; None where it cannot hold the accumulator."""
    return _plan_finish(ByArithmetic(layer))


def _params(layer: Layer) -> str:
    assert layer.weights is not None
    return constant(
        "rqdkm_fully_connected_params",
        "params",
        inputs=int(layer.weights.shape[1]),
        outputs=int(layer.weights.shape[0]),
        input_offset=-layer.inputs[0].zero_point,
        weight_offset=-layer.weight_zero_point,
        output_offset=layer.output.zero_point,
        clamp=layer.attrs["clamp"],
    )


def _batches(layer: Layer) -> int:
    assert layer.weights is not None
    return layer.inputs[0].size // int(layer.weights.shape[1])


def _macs(layer: Layer) -> int:
    assert layer.weights is not None
    return _batches(layer) * layer.weights.size


@register
class FullyConnectedReference(Kernel):
    """Plain C, asymmetric weights included."""

    name = "fully_connected_s8_ref"
    ops = ("fully_connected",)
    reference = True

    def reject(self, layer: Layer) -> str | None:
        return reject_fully_connected(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 10.0 * _macs(layer) + 60.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        outputs = layer.weights.shape[0]
        multipliers, shifts = fully_connected_multipliers(layer, outputs)
        body = (
            _params(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            + f"  return rqdkm_fully_connected_s8_ref(&params, &quant, {_batches(layer)}, (const int8_t *)in0,\n"
            + "                                      (const int8_t *)c0, (const int32_t *)c1, (int8_t *)out);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(layer.weights, bias_of(layer, outputs), multipliers, shifts),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/convolution.h",),
            macs=_macs(layer),
        )


@register
class FullyConnectedMixedReference(Kernel):
    """Plain C with tensors and weights of any width, asymmetric weights included."""

    name = "fully_connected_mixed_ref"
    ops = ("fully_connected",)
    reference = True
    packed_weights = True
    packed_tensors = True

    def reject(self, layer: Layer) -> str | None:
        return reject_fully_connected(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 28.0 * _macs(layer) + 100.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        outputs = layer.weights.shape[0]
        bits = channel_bits(layer)
        multipliers, shifts = fully_connected_multipliers(layer, outputs)
        body = (
            _params(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            + bits_constant(layer, "c4")
            + f"  return rqdkm_fully_connected_mixed_ref(&params, &quant, &bits, {_batches(layer)}, in0, c0,\n"
            + "                                         (const int32_t *)c1, out);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(
                pack_channels(layer.weights, bits),
                bias_of(layer, outputs),
                multipliers,
                shifts,
                np.array(bits, np.uint8),
            ),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/convolution.h",),
            macs=_macs(layer),
        )


#: Cycles per multiply-accumulate, by the bits of the weights: flash included.
MAC_CYCLES = {8: 2.0, 4: 1.67, 2: 1.5}


@register
class FullyConnectedFast(Kernel):
    """Four outputs at a time, weights straight from flash."""

    name = "fully_connected_s8_fast"
    ops = ("fully_connected",)
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        reason = reject_fully_connected(layer)
        if reason is None and layer.weight_zero_point != 0:
            reason = "weights must be symmetric (zero point 0)"
        if reason is None and fast_form(layer) is None:
            reason = "the accumulator may exceed 28 bits"
        return reason

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        assert layer.weights is not None
        return 2 * round_up(int(layer.weights.shape[1]), 4)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        assert layer.weights is not None
        inputs = int(layer.weights.shape[1])
        lane = 4.0 if layer.packs_weights else 2.5  # packed weights need the sum of the inputs
        fours = sum(4 * (MAC_CYCLES[bits] * round_up(inputs, 4) + 40) for bits in self._four_bits(layer))
        return _batches(layer) * (lane * inputs + fours)

    @staticmethod
    def _fours(layer: Layer) -> list[list[int]]:
        """Whole fours of outputs: those past the last repeat it and are not stored."""
        assert layer.weights is not None
        outputs = int(layer.weights.shape[0])
        return [[min(first + i, outputs - 1) for i in range(4)] for first in range(0, outputs, 4)]

    def _four_bits(self, layer: Layer) -> list[int]:
        return widest(channel_bits(layer), self._fours(layer))

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        outputs = int(layer.weights.shape[0])
        finish = fast_form(layer)
        assert finish is not None
        bias = lane_bias(
            layer.weights, bias_of(layer, outputs) + finish.bias_delta, layer.inputs[0].zero_point, SUM_SHIFT
        )
        bits = self._four_bits(layer)
        pairs = [pair for a, b, c, d in self._fours(layer) for pair in ((a, b), (c, d))]
        constants: list[NDArray] = [
            pack_groups(pack_fours(pad_taps(layer.weights, 4)), bits),
            pack_pair_quant(bias, finish, pairs),
        ]
        if layer.packs_weights:
            constants.append(np.repeat(np.array(bits, np.uint8), 2))
        body = (
            _params(layer)
            + f"  const rqdkm_packed_quant quant = {{{FORM_NAMES[finish.form]}, (const rqdkm_pair_quant *)c1, "
            + f"{'(const uint8_t *)c2' if layer.packs_weights else '0'}, 0}};\n"
            + f"  return rqdkm_fully_connected_s8_fast(&params, &quant, {_batches(layer)}, (const int8_t *)in0,\n"
            + "                                       (const int8_t *)c0, (int8_t *)out, scratch);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=tuple(constants),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=("rqdkm/convolution.h",),
            macs=_macs(layer),
        )
