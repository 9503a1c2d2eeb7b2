"""Which feature maps of a stage may have fewer bits in a branch."""

from __future__ import annotations

from collections.abc import Sequence

from rqdkm_tvm.lowbit import BITS
from rqdkm_tvm.mixed import PRODUCERS, READERS
from rqdkm_tvm.patches.stage import Node


def quantizable(nodes: Sequence[Node]) -> dict[int, tuple[int, ...]]:
    """Nodes whose result may be stored below 8 bits within a branch, and the widths it may have."""
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for source in node.inputs:
            readers.setdefault(source, []).append(node)
    found = {}
    for index, node in enumerate(nodes[:-1]):
        if node.layer.op not in PRODUCERS or not all(r.layer.op in READERS for r in readers.get(index, [])):
            continue
        if any(r is nodes[-1] and r.layer.op not in PRODUCERS for r in _behind(nodes, index)):
            continue  # the stage's result would take its format over
        widths = tuple(b for b in BITS if node.layer.output.shape[-1] * b % 8 == 0)
        if len(widths) > 1:
            found[index] = widths
    return found


def _behind(nodes: Sequence[Node], index: int) -> list[Node]:
    """Readers of a node's format: those of its result, and of what keeps its quantization."""
    found = []
    for position, node in enumerate(nodes):
        if index in node.inputs:
            found.append(node)
            if node.layer.op not in PRODUCERS:
                found += _behind(nodes, position)
    return found
