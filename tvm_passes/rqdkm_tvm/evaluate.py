"""A float Relay function, compiled for this computer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.quiet import native_silence
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
Floats = npt.NDArray[np.float32]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TVM's advice on tuning for the host."""
    loggers = [logging.getLogger(name) for name in ("strategy", "autotvm", "te_compiler")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def compiled(function: Expr, names: list[str]) -> Callable[..., list[Floats]]:
    """A compiled function; call it with lists of arrays in the order of its parameters."""
    from tvm.contrib import graph_executor

    cpu = tvm.target.codegen.llvm_get_system_cpu()
    module = relay.transform.InferType()(tvm.IRModule.from_expr(function))
    # common subexpressions of vector type make debug information that newer LLVM refuses
    # TVM's scheduler warns on stderr of every max pool's gradient, whose argmax nobody reads
    with _quiet(), native_silence(2), tvm.transform.PassContext(opt_level=3, config={"tir.disable_cse_tir": True}):
        library = relay.build(module, target=f"llvm -mcpu={cpu}")
    executor = graph_executor.GraphModule(library["default"](tvm.cpu()))

    def run(*groups: Any) -> list[Floats]:
        values = [v for group in groups for v in (group if isinstance(group, list) else [group])]
        for name, value in zip(names, values, strict=True):
            executor.set_input(name, value)
        executor.run()
        return [executor.get_output(i).numpy() for i in range(executor.get_num_outputs())]

    return run
