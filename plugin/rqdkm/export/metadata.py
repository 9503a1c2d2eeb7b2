"""metadata.json: what the project contains, for tools and people (in the manner of TVM's Model Library Format)."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from typing import Any

from rqdkm import __version__
from rqdkm.export.model_c import describe
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.tvm_import import tvm

SCHEMA = "rqdkm.metadata"
VERSION = 1


def metadata(compiled: CompiledModel, name: str, board: str) -> dict[str, Any]:
    """Everything but ``model_id``, which is the CRC-32 of this."""
    plan = compiled.memory
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "model_name": name,
        "board": board,
        "generator": {"rqdkm": __version__, "tvm": str(tvm.__version__)},
        "inputs": describe(compiled.inputs, compiled.aot.inputs),
        "outputs": describe(compiled.outputs, compiled.aot.outputs),
        "memory": {
            "pools": [{"name": "arena", "bytes": plan.arena_bytes, "lower_bound_bytes": plan.lower_bound_bytes}],
            "constants_bytes": sum(layer.lowered.constant_bytes for layer in compiled.layers),
            "peak": plan.peak.name if plan.moments else "",
            "timeline": [asdict(moment) for moment in plan.moments],
        },
        "macs": compiled.macs,
        "layers": [
            {
                "index": index,
                "name": layer.name,
                "op": layer.layer.op,
                "symbol": layer.lowered.symbol,
                "kernel": layer.lowered.kernel,
                "config": layer.lowered.config,
                "macs": layer.macs,
                "bitops": layer.bitops,
                "bits_weight": layer.bits_weight,
                "bits_activation": layer.layer.inputs[0].bits,
                "bits_output": layer.layer.stored.bits,
                "scratch_bytes": layer.lowered.scratch_bytes,
                "constant_bytes": layer.lowered.constant_bytes,
            }
            for index, layer in enumerate(compiled.layers)
        ],
        "operators": [
            {
                "layer": row.layer,
                "op": row.op,
                "offloaded": row.offloaded,
                "kernel": row.kernel,
                "reason": row.reason,
            }
            for row in compiled.report.rows
        ],
        "plan": json.loads(compiled.plan.to_json()),
    }


def identify(content: dict[str, Any]) -> int:
    """``model_id``: CRC-32 of the canonical JSON text of :func:`metadata`."""
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def to_json(content: dict[str, Any], model_id: int) -> str:
    return json.dumps({"model_id": f"{model_id:08x}", **content}, indent=2) + "\n"
