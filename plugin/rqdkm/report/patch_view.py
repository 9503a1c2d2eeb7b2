"""What every rendering shows of a patch stage: classes, bits, peaks and figures as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from rqdkm.report import view
from rqdkm.report.schema import Patches, Report, TimelineStep

Kind = Literal["outlier", "searched", "either", "plain"]

# kind -> (mark that needs no colour, name)
KINDS: Final[dict[Kind, tuple[str, str]]] = {
    "outlier": ("▲", "outlier patch: keeps the layers' own formats"),
    "searched": ("▼", "searched: formats of its own"),
    "either": ("◆", "decided on the chip for each input: branch 0 or the one shown"),
    "plain": ("■", "the layers' own formats throughout"),
}


@dataclass(frozen=True)
class Peak:
    """The most that is in the arena at once."""

    bytes: int
    layer: str


def kind(patches: Patches, row: int, column: int) -> Kind:
    """Class of a patch."""
    if len(patches.branches) == 1:
        return "plain"
    if patches.assignment[row][column]:
        return "either" if patches.thresholds else "searched"
    if patches.thresholds or patches.vdpc == "all":
        return "plain"
    limit, shares = patches.outlier_limit, patches.outlier_share
    # below the limit it was searched, and the search has left everything as it was
    return "plain" if shares and limit is not None and shares[row][column] < limit else "outlier"


def kinds(patches: Patches) -> list[Kind]:
    """Those that occur, in the order of :data:`KINDS`."""
    rows, columns = patches.grid
    found = {kind(patches, r, c) for r in range(rows) for c in range(columns)}
    return [name for name in KINDS if name in found]


def layer_bits(patches: Patches, branch: int) -> tuple[int, ...]:
    """Bits of every layer's result in a branch; 8 where a report does not say."""
    found = patches.branches[branch]
    return found.layer_bits or tuple(found.bits.get(name, 8) for name in patches.layers)


def span(bits: Iterable[int]) -> str:
    """``8``, or ``2 to 8``."""
    found = sorted(set(bits)) or [8]
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def inner_span(patches: Patches, branch: int) -> str:
    """Bits within a branch: without the stage's result, which all branches write alike."""
    bits = layer_bits(patches, branch)
    return span(bits[:-1] or bits)


def redundancy(patches: Patches) -> float:
    """Part of the stage's multiply-accumulates that is computed again."""
    return patches.computed_macs / patches.macs - 1 if patches.macs else 0.0


def result_shape(report: Report) -> tuple[int, int] | None:
    """Rows and columns of the map that the patches divide."""
    for layer in report.layers:
        if layer.op == "patch_stage" and len(layer.output_shape) == 4:
            return layer.output_shape[1], layer.output_shape[2]
    return None


def apart(patches: Patches, step: int) -> int:
    """Bytes of the input in ``timeline_before`` that stand apart: where the application hands it over."""
    within = step < patches.frame_steps_before
    return min(patches.frame_bytes, patches.timeline_before[step].live_bytes) if within and _handed(patches) else 0


def _handed(patches: Patches) -> bool:
    return patches.input == "callback"


def peaks(report: Report) -> tuple[Peak | None, Peak | None]:
    """Before and after; without the input where the application hands it over. None without a timeline."""
    patches = report.patches
    assert patches is not None
    before = [(step, apart(patches, index)) for index, step in enumerate(patches.timeline_before)]
    return _peak(before), _peak((step, 0) for step in report.memory.timeline)


def _peak(steps: Iterable[tuple[TimelineStep, int]]) -> Peak | None:
    found = [Peak(step.live_bytes + step.scratch_bytes - less, step.layer) for step, less in steps]
    return max(found, key=lambda peak: peak.bytes, default=None)


def line(report: Report) -> str | None:
    """The stage in one line, None where there is none."""
    patches = report.patches
    if patches is None:
        return None
    text = f"{patches.grid[0]}x{patches.grid[1]} up to {patches.last}, halo {patches.halo}, "
    text += f"{100 * redundancy(patches):.1f} % of MACs computed again, "
    text += "input by callback" if _handed(patches) else "input in memory"
    found = classes(patches)
    return text if found is None else f"{text}; {found}"


def classes(patches: Patches) -> str | None:
    """What became of classification and search, None where there was neither."""
    if patches.vdpc == "off":
        return None
    name = "every patch is searched" if patches.vdpc == "all" else f"VDPC {patches.vdpc}"
    return f"{name}: {_classes(patches)}"


def _classes(patches: Patches) -> str:
    every = patches.grid[0] * patches.grid[1]
    own = inner_span(patches, 0)
    searched = [i for i, branch in enumerate(patches.branches) if i and branch.patches]
    if not searched:
        if patches.trials and patches.weight is None:
            return f"no lambda keeps the loss allowed, all {every} patches keep {own} bits"
        why = "the search changes nothing" if patches.trials else "every position is of the outlier class"
        return f"{why}, all {every} patches keep {own} bits"
    others = span(bits for i in searched for bits in layer_bits(patches, i)[:-1] or layer_bits(patches, i))
    if patches.thresholds:
        shares = [share for row in patches.outlier_share for share in row]
        of = f" ({100 * sum(shares) / len(shares):.1f} % of the calibration's)" if shares else ""
        return f"outlier patches{of} keep {own} bits, others {others}"
    return f"{patches.branches[0].patches} of {every} patches keep {own} bits, others {others}"


def figures(report: Report) -> list[tuple[str, str]]:
    """(name, text) of everything that pictures do not say."""
    patches = report.patches
    assert patches is not None
    more, whole = patches.computed_macs - patches.macs, report.totals.macs
    shape = result_shape(report)
    of = "" if shape is None else f", {shape[0]} x {shape[1]}"
    found = [
        ("grid", f"{patches.grid[0]} x {patches.grid[1]} patches of the result of {patches.last}{of}"),
        ("layers", f"{len(patches.layers)}: {', '.join(patches.layers)}"),
        ("halo", _halo(patches)),
        (
            "MACs computed again",
            f"{more:,}: {100 * redundancy(patches):.1f} % of the stage's {patches.macs:,}"
            + (f", {100 * more / whole:.1f} % of the network's {whole:,}" if whole else ""),
        ),
        ("input", _input(patches)),
    ]
    before, after = peaks(report)
    if before is not None and after is not None:
        without = ", without the input" if _handed(patches) else ""
        found.append(
            (
                "arena at its peak",
                f"{before.bytes:,} bytes before ({before.layer}), {after.bytes:,} after ({after.layer}){without}",
            )
        )
    text = classes(patches)
    if text is not None:
        found.append(("classes", text))
    if patches.thresholds:
        low, high, count = patches.thresholds
        found.append(("outliers", f"int8 values below {low} or above {high}; {count:,} of them make an outlier patch"))
    if patches.outlier_limit is not None:
        found.append(("outlier class", f"outliers in at least {100 * patches.outlier_limit:.0f} % of the samples"))
    if patches.weight is not None:
        found.append(("VDQS", f"lambda {patches.weight:g}, the least of those tried whose loss is allowed"))
    return found


def _halo(patches: Patches) -> str:
    if patches.halo == "recompute":
        return "recompute: what neighbours share is computed by each"
    return f"lines: rows kept from a patch for the one below it, {patches.kept_bytes:,} bytes"


def _input(patches: Patches) -> str:
    size = view.kib(patches.frame_bytes)
    if _handed(patches):
        return f"by callback: the application hands over regions of the frame ({size}), which is not in the arena"
    return f"the frame, {size}, in the arena"
