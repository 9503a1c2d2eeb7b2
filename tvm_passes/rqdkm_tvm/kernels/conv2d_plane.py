"""3x3 convolution of a single channel: ``tflm_ops/include/rqdkm/kernels/conv2d_s8_plane_template.h``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels._c import constant, hwc
from rqdkm_tvm.kernels.conv2d import bias_of, geometry, reject_convolution
from rqdkm_tvm.kernels.exact_floor import Channel, Floor, Form, solve_layer
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.kernels.requantize import accumulator_bounds, convolution_multipliers
from rqdkm_tvm.layer import KernelCall, Layer

_PIXEL_SCALE = 4  # log2, RQDKM_PLANE_SCALE: (x + 128) << 4 fits 16 bits, so does w << 8
_CYCLES = {Form.FLOOR: 49.5, Form.AWAY: 64.0}  # of four outputs


@dataclass(frozen=True)
class _Solved:
    form: Form
    right_shift: int
    table: npt.NDArray[np.int32]  # rqdkm_plane_channel per output channel


@lru_cache(maxsize=64)
def _solve(key: ByArithmetic) -> _Solved | None:
    """The requantization as one floor, or None if no form with one right shift for the layer is exact."""
    layer = key.layer
    assert layer.weights is not None
    count = layer.output.shape[3]
    weights = layer.weights.reshape(count, 9).astype(np.int64)
    bias = bias_of(layer, count)
    clamp = (int(layer.attrs["clamp"][0]), int(layer.attrs["clamp"][1]))
    multipliers, shifts = convolution_multipliers(layer, count)
    low, high = accumulator_bounds(weights, bias, layer.inputs[0].zero_point)
    channels = [
        Channel(int(m), int(s), layer.output.zero_point, clamp, int(lo), int(hi))
        for m, s, lo, hi in zip(multipliers, shifts, low, high, strict=True)
    ]
    solved = solve_layer(channels, min_k=_PIXEL_SCALE, max_k=_PIXEL_SCALE + 8)
    if solved is None or solved[0] not in _CYCLES or not 1 <= solved[1][0].right_shift <= 31:
        return None
    form, floors = solved
    return _Solved(form, floors[0].right_shift, _table(weights, bias, layer.inputs[0].zero_point, floors))


def _table(
    weights: npt.NDArray[np.int64], bias: npt.NDArray[np.int32], zero_point: int, floors: list[Floor]
) -> npt.NDArray[np.int32]:
    k = np.array([floor.k for floor in floors], np.int64)
    scaled = (weights << (k - _PIXEL_SCALE)[:, None]).reshape(-1, 3, 3)
    pairs = [(scaled[:, 0, x], scaled[:, 1, x]) for x in range(3)]
    pairs += [(scaled[:, 2, x], scaled[:, 2, x + 1]) for x in range(2)]
    init = bias.astype(np.int64) - (zero_point + 128) * weights.sum(axis=1)
    init = (init - np.array([floor.base for floor in floors])) << k
    words = [(low & 0xFFFF) | (high & 0xFFFF) << 16 for low, high in pairs]
    words += [init, *np.array([(f.multiplier, f.offset, f.addend) for f in floors], np.int64).T]
    # modulo 2**32: init alone may exceed 32 bits where the accumulator does not
    return (np.stack(words, axis=1) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


@register
class Conv2dPlane(Kernel):
    """One input channel: the weights of an output channel stay in registers while a row passes."""

    name = "conv2d_s8_plane"
    ops = ("conv2d",)
    packed_weights = True  # takes any bits; a channel's table is 36 bytes whatever they are

    def reject(self, layer: Layer) -> str | None:
        reason = reject_convolution(layer)
        if reason is not None:
            return reason
        g = geometry(layer)
        if (g.input_c, g.kernel_h, g.kernel_w) != (1, 3, 3):
            return "a 3x3 kernel on one input channel only"
        if g.stride != (1, 1) or g.dilation != (1, 1):
            return "stride and dilation must be 1"
        if g.output_c > 1000:
            return "outputs lie too far apart for immediate offsets"
        if _solve(ByArithmetic(layer)) is None:
            return "requantization has no exact single floor"
        return None

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 36 * ((hwc(layer.output)[1] + 3) // 4 + 1)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        height, width, channels = hwc(layer.output)
        solved = _solve(ByArithmetic(layer))
        four = _CYCLES[solved.form if solved else Form.AWAY]
        line = 45.0 + width // 4 * four + 88.0 * (width % 4)
        return height * (250.0 + 10.0 * width + channels * line)

    def parts(self, layer: Layer, config: Config) -> Rows:
        return Rows("params.input.h", "params.output.h", "params.pad_top")

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        solved = _solve(ByArithmetic(layer))
        assert solved is not None
        (input_h, input_w, _), (output_h, output_w, channels) = hwc(layer.inputs[0]), hwc(layer.output)
        body = (
            constant(
                "rqdkm_plane_params",
                "params",
                input=(input_h, input_w),
                output=(output_h, output_w),
                pad_top=int(layer.attrs["padding"][0]),
                pad_left=int(layer.attrs["padding"][1]),
                input_zero_point=layer.inputs[0].zero_point,
                clamp=layer.attrs["clamp"],
            )
            + "  return rqdkm_conv2d_s8_plane_template(&params, (const int8_t *)in0, (const rqdkm_plane_channel *)c0,\n"
            f"      (int8_t *)out, scratch, {channels}, {solved.right_shift}, {int(solved.form)});\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(solved.table,),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=("rqdkm/kernels/conv2d_s8_plane_template.h",),
            macs=geometry(layer).macs,
        )
