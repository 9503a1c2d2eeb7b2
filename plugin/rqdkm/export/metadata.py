"""metadata.json: what the project contains, for tools and people (in the manner of TVM's Model Library Format)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rqdkm import __version__
from rqdkm.export.model_c import describe
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.morph.library import network_names
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
                **_library(layer.layer),
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


def _library(layer: Layer) -> dict[str, Any]:
    if layer.library is None:
        return {}
    return {"kernels": [path.name for path in layer.library.paths], "safe": layer.library.safe}


def kernels(content: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Names of the kernels of a project's network, and the safe one; one, "fixed", where nothing morphs.

    Kernel ``k`` of the network is kernel ``k`` of every morphing layer.
    """
    layers = [layer for layer in content["layers"] if "kernels" in layer]
    if not layers:
        return ("fixed",), 0
    most = max(layers, key=lambda layer: len(layer["kernels"]))
    return tuple(network_names([layer["kernels"] for layer in layers])), int(most["safe"])


def identify(content: dict[str, Any]) -> int:
    """``model_id``: CRC-32 of the canonical JSON text of :func:`metadata`."""
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def to_json(content: dict[str, Any], model_id: int) -> str:
    return json.dumps({"model_id": f"{model_id:08x}", **content}, indent=2) + "\n"
