"""The one place that imports TVM: sets its environment and explains a build without Relay."""

from __future__ import annotations

import os

from rqdkm_tvm.errors import ToolError

# TVM downloads tuning logs at the first build otherwise; nothing here uses them
os.environ.setdefault("TOPHUB_LOCATION", "NONE")

try:
    import tvm
except (ImportError, OSError) as error:
    raise ToolError(
        f"TVM cannot be imported: {error}", hint="pip install xtc-tvm-python-bindings==0.19.0.12 (reinstall rqdkm)"
    ) from error

try:
    from tvm import relay
except ImportError as error:
    raise ToolError(
        f"this TVM ({tvm.__version__}) has no Relay",
        hint="Relay left TVM after 0.19: install TVM 0.14 to 0.19, e.g. xtc-tvm-python-bindings==0.19.0.12",
    ) from error

__all__ = ["relay", "tvm"]
