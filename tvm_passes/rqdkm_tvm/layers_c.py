"""layers.c: the C functions behind the ``rqdkm.layer<n>`` operators, one wrapper per layer."""

from __future__ import annotations

from collections.abc import Sequence

from rqdkm_tvm.operators import LoweredLayer

_HEAD = """\
/* Generated. One function per layer, called by TVM's executor. Shapes and parameters are compile-time constants.
   With RQDKM_PROFILE_LAYERS=1 each call leaves its cycles in rqdkm_layer_cycles[]. */
#include <stdint.h>
{includes}
#include "rqdkm_model.h"
#ifndef RQDKM_PROFILE_LAYERS
#define RQDKM_PROFILE_LAYERS 0
#endif

#if RQDKM_PROFILE_LAYERS
#include "rqdkm/port.h"
uint32_t rqdkm_layer_cycles[{size}];
#define RQDKM_LAYER(index, call)                          \\
  uint32_t start = rqdkm_port_cycles();                   \\
  int32_t status = call;                                  \\
  rqdkm_layer_cycles[index] = rqdkm_port_cycles() - start
#else
uint32_t rqdkm_layer_cycles[1];
#define RQDKM_LAYER(index, call) int32_t status = call
#endif

/* First failure of a run; TVM's executor drops what layers return. */
int32_t rqdkm_layer_status;
"""


def source(layers: Sequence[LoweredLayer]) -> str:
    """The file's text."""
    includes = sorted({include for layer in layers for include in layer.includes})
    head = _HEAD.format(includes="\n".join(f'#include "{i}"' for i in includes), size=max(1, len(layers)))
    return head + "".join(_layer(index, layer) for index, layer in enumerate(layers))


def _layer(index: int, layer: LoweredLayer) -> str:
    inputs = [f"in{i}" for i in range(layer.tensors)]
    constants = [f"c{i}" for i in range(len(layer.parameter_types) - 1 - layer.tensors)]
    names = [*inputs, *constants, "out"] + (["scratch"] if layer.scratch_bytes else [])
    # TVM declares plain element pointers; the body sees void pointers
    outer = [f"{kind}* {name}" for kind, name in zip(layer.parameter_types, names, strict=False)]
    if layer.scratch_bytes:
        outer.append("int8_t* scratch")
    inner = [f"{'const ' if name in (*inputs, *constants) else ''}void* {name}" for name in names]
    comment = f"/* {layer.name.replace('*/', '* /')}: {layer.kernel} */"
    return f"""
{layer.prelude}{comment}
static inline int32_t {layer.symbol}_body({", ".join(inner)}) {{
{layer.body.rstrip()}
}}
int32_t {layer.symbol}({", ".join(outer)});
int32_t {layer.symbol}({", ".join(outer)}) {{
  RQDKM_LAYER({index}, {layer.symbol}_body({", ".join(names)}));
  if (status != 0 && rqdkm_layer_status == 0) rqdkm_layer_status = status;
  return status;
}}
"""
