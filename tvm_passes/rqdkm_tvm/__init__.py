"""Relay passes that take a quantized CNN to the rqdkm C kernels. Needs only numpy and a TVM with Relay.

``rqdkm_tvm.passes`` is the table of contents of the passes, ``rqdkm_tvm.offload`` that of the operators.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CompiledModel", "Plan", "compile_model", "prepare"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``rqdkm_tvm.errors`` and ``rqdkm_tvm.files`` must not pull in TVM."""
    if name in ("compile_model", "CompiledModel"):
        from rqdkm_tvm import compile as module
    elif name == "prepare":
        from rqdkm_tvm import passes as module  # type: ignore[no-redef]
    elif name == "Plan":
        from rqdkm_tvm import plan as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
