"""VDQS, value-driven quantization search: 8, 4 or 2 bits for every feature map of the branches that VDPC leaves.

Score of feature map i at b bits, no training::

    S(i, b) = -lambda * dH(i, b) + (1 - lambda) * dB(i, b)
    dH(i, b) = n(H(i, 8) - H(i, b)) / max_j,c n(H(j, 8) - H(j, c))    entropy lost
    dB(i, b) = (B(i, 8) - B(i, b)) / max_j B(j, 8)                     BitOPs saved in the layers that read the map
    B(i, b)  = b * sum over these layers of MACs in the branch * bits of their weights

``H(i, b)`` is the Shannon entropy, in bits, of the map's integers at b bits, over the parts of the map that the branch
computes, on calibration samples. Both terms are in [0, 1]; at 8 bits S = 0 (QuantMCU's score with its terms
normalised).

``n`` is the scale on which entropy is counted. With ``linear``, n(h) = h: but a bit of width is worth about a bit of
entropy whatever the width, so that the sum has its maximum at 2 or at 8 bits and hardly ever between. With ``power``,
n(h) = 2^(2 h) - 1: at high rates the noise of a quantizer grows as 2^(-2 H), so this is the noise power that the lost
entropy stands for (Shannon's entropy power), and the fourth bit costs less than the second. ``power`` is the default;
`rqdkm experiment vdqs` compares both with the best choices there are.

Iterative: all maps begin at 8 bits. In each round the one change of one map with the greatest gain in S is made, then
the maps are computed anew with what has been quantized so far, and entropies with them. While the memory does not
hold, only maps that are alive at the peak are candidates, whatever the gain. It ends when the memory holds and no
change gains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rqdkm_tvm import cost
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.lowbit import activation_quantization, integer_range
from rqdkm_tvm.mixed import FOLLOWERS
from rqdkm_tvm.patches.geometry import Region, cut
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import split_at
from rqdkm_tvm.patches.stage import Stage
from rqdkm_tvm.patches.trace import trace
from rqdkm_tvm.patches.widths import quantizable
from rqdkm_tvm.plan import OutputPlan
from rqdkm_tvm.sensitivity.float_twin import ActivationQuantizer, FloatTwin
from rqdkm_tvm.tvm_import import relay, tvm

LAMBDA = 0.5
Scale = Literal["power", "linear"]
SAMPLES = 16  # of the calibration set; entropies settle early
MOST_VALUES = 1 << 20  # of a map; where the samples have more, some of the samples do
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One step of the search."""

    name: str
    bits: int
    gain: float
    entropy: float  # of the map at these bits
    memory: int  # bytes of the stage after it


@dataclass(frozen=True)
class Branch:
    """Formats found for the patches at ``positions``.

    Args:
        bitops: of these patches, and ``bitops_8`` with all their maps at 8 bits.
        scores: last S(i, b) of every map, by name and bits.
    """

    positions: tuple[tuple[int, int], ...]
    outputs: Mapping[str, OutputPlan]
    changes: tuple[Change, ...]
    bitops: int
    bitops_8: int
    scores: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def entropy(integers: NDArray) -> float:
    """Shannon entropy of int8 values, in bits."""
    counts = np.bincount(np.asarray(integers, np.int64).reshape(-1) + 128, minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _lost(difference: float, scale: Scale) -> float:
    """n(h), see above; quantization cannot add entropy, rounding of estimates can."""
    difference = max(difference, 0.0)
    return difference if scale == "linear" else 2.0 ** (2 * difference) - 1


class Searcher:
    """VDQS on one stage.

    Args:
        mod: partitioned module that the stage is cut out of.
        stage: its patch plan has the grid and the halo; branches are what is searched.
        frames: (n, H, W, C) int8.
        ram: bytes that kept rows and buffers of a patch may take, without kernels' scratch; None: no limit.
    """

    def __init__(
        self,
        mod: Any,
        stage: Stage,
        frames: NDArray,
        *,
        ram: int | None = None,
        progress: Progress = lambda _text: None,
    ) -> None:
        self.stage, self.ram, self.progress = stage, ram, progress
        self.nodes, self.plan = stage.nodes, stage.plan
        self.frames = np.asarray(frames)[:: max(1, len(frames) // SAMPLES)][:SAMPLES]
        self.widths = quantizable(self.nodes)
        self.twin = FloatTwin.of(_alone(mod, self.nodes[-1].layer.name))
        self.names = [node.layer.name for node in self.nodes]
        self.regions = self._regions()
        self._formats: dict[tuple[int, int], OutputPlan] = {}

    def _regions(self) -> dict[tuple[int, int], tuple[Region, ...]]:
        """By position: the part of every map that a patch computes when it goes on with nothing."""
        result = self.nodes[-1].layer.output
        rows, columns = (cut(extent, parts) for extent, parts in zip(result.shape[1:3], self.plan.grid, strict=True))
        return {
            (r, c): trace(self.nodes, self.stage.frame, Region(down, across), None).held
            for r, down in enumerate(rows)
            for c, across in enumerate(columns)
        }

    # ---- what the maps hold

    def maps(self, bits: Mapping[int, OutputPlan]) -> list[list[NDArray]]:
        """Real values of every node's result by sample, (H, W, C), with the maps of ``bits`` quantized.

        A map's own values are those before its own quantization.
        """
        self.twin.quantizers.clear()
        for index, output in bits.items():
            self.twin.quantizers[self.names[index]] = ActivationQuantizer(
                np.float32(output.scale), output.zero_point, output.bits
            )
        place = {layer.name: position for position, layer in enumerate(self.twin.layers)}
        found: list[list[NDArray]] = [[] for _ in self.nodes]
        for frame in self.frames:
            activations = self.twin.forward([frame]).activations
            for index, name in enumerate(self.names):
                found[index].append(activations[place[name]].reshape(self.nodes[index].layer.output.shape[1:]))
        return found

    def values(self, maps: Sequence[Sequence[NDArray]], index: int, positions: Sequence[tuple[int, int]]) -> NDArray:
        """What the patches at ``positions`` compute of a map, each value once, of all samples or as many as give
        :data:`MOST_VALUES`."""
        _, height, width, channels = self.nodes[index].layer.output.shape
        computed = np.zeros((height, width), bool)
        for region in (self.regions[position][index] for position in positions):
            computed[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop] = True
        size = int(computed.sum()) * channels * len(maps[index])
        used = maps[index][:: max(1, -(-size // MOST_VALUES))]
        return np.concatenate([value[computed].reshape(-1) for value in used])

    def format(self, index: int, bits: int, values: NDArray) -> OutputPlan:
        """How a map is quantized at ``bits``: as it is at 8, else with the least squared error; settled once."""
        if bits == 8:
            own = self.nodes[index].layer.output
            return OutputPlan(8, own.scale, own.zero_point)
        if (index, bits) not in self._formats:
            scale, zero_point = activation_quantization(values, bits)
            self._formats[index, bits] = OutputPlan(bits, float(scale), zero_point)
        return self._formats[index, bits]

    def bitops(self, position: tuple[int, int], outputs: Mapping[int, OutputPlan]) -> int:
        """MACs * bits of weights * bits of what is read, over the layers of a patch that goes on with nothing."""
        total = 0
        for index, node in enumerate(self.nodes):
            source = node.inputs[0]
            bits = 8 if source < 0 else self._bits(source, outputs)
            total += self._macs_bits(position, index) * bits
        return total

    def _bits(self, index: int, outputs: Mapping[int, OutputPlan]) -> int:
        """Of a node's result; what keeps the quantization of its input follows it."""
        if index < 0:
            return 8
        node = self.nodes[index]
        if index in outputs:
            return outputs[index].bits
        return self._bits(node.inputs[0], outputs) if node.layer.op in FOLLOWERS else node.layer.output.value_bits

    def _macs_bits(self, position: tuple[int, int], index: int) -> int:
        """MACs of a node in a patch times bits of its weights."""
        layer = self.nodes[index].layer
        if layer.weights is None:
            return 0
        pixels = self.regions[position][index].pixels
        share = pixels / (layer.output.shape[1] * layer.output.shape[2])
        return round(cost.bitops(layer) / layer.inputs[0].value_bits * share)

    def memory(self, outputs: Mapping[int, OutputPlan]) -> tuple[int, set[int]]:
        """Bytes of kept rows and buffers of the largest patch with these formats, and the maps alive at its peak."""
        branch = {self.names[index]: output for index, output in outputs.items() if output.bits != 8}
        grid = self.plan.grid
        everywhere = tuple((1,) * grid[1] for _ in range(grid[0]))
        plan = dataclasses.replace(self.plan, branches=({}, branch), assignment=everywhere, outliers=None)
        patches = Patches(dataclasses.replace(self.stage, plan=plan))
        most, alive = -1, set()
        position = {name: index for index, name in enumerate(self.names)}
        for patch in patches.every:
            program = patches.program(patch)
            live = program.live()
            peak = max(range(len(live)), key=lambda step: live[step], default=0)
            if live and live[peak] > most:
                most = live[peak]
                alive = {
                    position[patches.branches[1][run.node].layer.name]
                    for step, run in program.runs
                    if any(
                        program.buffers[place.buffer].first <= peak <= program.buffers[place.buffer].last
                        for place in (*run.operands, run.result)
                        if place.buffer >= 0
                    )
                }
        return sum(patches.kept_bytes.values()) + max(most, 0), alive

    # ---- the search

    def search(
        self,
        positions: Sequence[tuple[int, int]],
        weight: float = LAMBDA,
        *,
        renew: bool = True,
        scale: Scale = "power",
    ) -> Branch:
        """Formats for the patches at ``positions``, the same for all of them.

        Args:
            weight: lambda.
            renew: compute the maps anew after each change.
            scale: of entropy, see above.

        Raises:
            BudgetError: the memory does not hold with every map at its fewest bits.
        """
        chosen = dict.fromkeys(self.widths, 8)
        outputs: dict[int, OutputPlan] = {}
        changes: list[Change] = []
        reads = {i: self._read_by(i, positions) for i in self.widths}
        most_read = max(reads.values(), default=0) or 1
        maps = self.maps(outputs)
        bytes_, alive = self.memory(outputs)
        scores: dict[str, dict[int, float]] = {}
        entropies: dict[int, dict[int, float]] = {}
        stale = set(self.widths)
        while self.widths:
            entropies |= {i: self._entropies(maps, i, positions) for i in stale}
            lost = {i: {b: _lost(h[8] - h[b], scale) for b in h} for i, h in entropies.items()}
            most = max(n for table in lost.values() for n in table.values()) or 1.0
            best: tuple[float, int, int] | None = None
            tight = self.ram is not None and bytes_ > self.ram
            for i, widths in self.widths.items():
                table = {
                    b: -weight * lost[i][b] / most + (1 - weight) * (8 - b) / 8 * reads[i] / most_read for b in widths
                }
                scores[self.names[i]] = table
                for b in widths:
                    gain = table[b] - table[chosen[i]]
                    wanted = (i in alive and b < chosen[i]) if tight else (b < chosen[i] and gain > 0)
                    if wanted and (best is None or (gain, -i, b) > best):
                        best = (gain, -i, b)
            if best is None:
                if tight:
                    raise BudgetError(
                        f"the patches need {bytes_:,} bytes with the fewest bits, there are {self.ram:,}",
                        where="VDQS",
                        hint="more patches, or a larger RAM budget",
                        needed_bytes=bytes_,
                    )
                break
            gain, i, b = best[0], -best[1], best[2]
            chosen[i] = b
            outputs[i] = self.format(i, b, self.values(maps, i, positions))
            bytes_, alive = self.memory(outputs)
            changes.append(Change(self.names[i], b, gain, entropies[i][b], bytes_))
            self.progress(f"{self.names[i]} at {b} bits")
            stale = set()
            if renew:
                maps = self.maps(outputs)
                stale = self._behind(i) & set(self.widths)
        found = {self.names[i]: output for i, output in outputs.items()}
        return Branch(
            tuple(positions),
            found,
            tuple(changes),
            sum(self.bitops(p, outputs) for p in positions),
            sum(self.bitops(p, {}) for p in positions),
            scores,
        )

    def _read_by(self, index: int, positions: Sequence[tuple[int, int]]) -> int:
        """MACs * bits of weights in the layers that read a map, over the patches at ``positions``."""
        readers = [i for i, node in enumerate(self.nodes) if i != index and self._source(i) == index]
        return sum(self._macs_bits(p, i) for p in positions for i in readers)

    def _behind(self, index: int) -> set[int]:
        """Nodes whose result depends on that of another one."""
        found = {index}
        for i, node in enumerate(self.nodes):
            if found & set(node.inputs):
                found.add(i)
        return found - {index}

    def _source(self, index: int) -> int:
        """The map whose bits a node's first operand has."""
        source = self.nodes[index].inputs[0]
        while source >= 0 and source not in self.widths and self.nodes[source].layer.op in FOLLOWERS:
            source = self.nodes[source].inputs[0]
        return source

    def _entropies(
        self, maps: Sequence[Sequence[NDArray]], index: int, positions: Sequence[tuple[int, int]]
    ) -> dict[int, float]:
        values = self.values(maps, index, positions)
        found = {}
        for bits in self.widths[index]:
            output = self.format(index, bits, values)
            low, high = integer_range(bits)
            found[bits] = entropy(np.clip(np.rint(values / np.float32(output.scale)) + output.zero_point, low, high))
        return found


def _alone(mod: Any, last: str) -> Any:
    """The layers of a partitioned module up to ``last``, as a main function of their own."""
    function = mod["main"]
    split = split_at(function, last)
    alone = relay.Function(list(function.params), split.call)
    for key in function.attrs.keys() if function.attrs is not None else ():
        alone = alone.with_attr(str(key), function.attrs[key])
    return relay.transform.InferType()(tvm.IRModule({"main": alone}))["main"]
