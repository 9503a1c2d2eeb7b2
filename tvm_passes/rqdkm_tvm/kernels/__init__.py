"""The kernels on the Python side: what each C kernel accepts, needs and how its constants are packed."""

from rqdkm_tvm.kernels import (
    add,
    conv2d,
    conv2d_panel,
    conv2d_strip,
    conv2d_winograd,
    depthwise_as_conv,
    depthwise_conv2d,
    depthwise_direct,
    depthwise_strip,
    float_io,
    fully_connected,
    movement,
    mul,
    pool,
    softmax,
    unary,
)

__all__ = [
    "add",
    "conv2d",
    "conv2d_panel",
    "conv2d_strip",
    "conv2d_winograd",
    "depthwise_as_conv",
    "depthwise_conv2d",
    "depthwise_direct",
    "depthwise_strip",
    "float_io",
    "fully_connected",
    "movement",
    "mul",
    "pool",
    "softmax",
    "unary",
]
