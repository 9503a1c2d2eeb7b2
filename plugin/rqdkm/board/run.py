"""Run samples through a firmware image, on any board."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from rqdkm.board import qemu
from rqdkm.board.openocd import OpenOcd
from rqdkm.board.protocol import BoardClient, BoardInfo, MemoryInfo, Selection
from rqdkm.board.stream import ByteStream
from rqdkm_tvm.errors import BoardError, DataError, ToolError

log = logging.getLogger(__name__)

BoardName = Literal["virtual", "qemu", "openocd"]
BOARDS: tuple[str, ...] = get_args(BoardName)


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    Args:
        flash_model: of the virtual board: ``f407``, ``l4r5`` or ``none``.
        profile: the virtual board also counts cycles per function (slower).
        io: byte stream. ``auto``: semihosting on QEMU (its emulated serial line is a hundred times slower), USART1 on
            the virtual board, and on a real board USART1 when ``openocd`` names a serial port. A firmware built with
            another ``RQDKM_IO`` than ``auto`` has no choice, and needs its own here.
        openocd: how to reach a real board.
        timeout_s: limit of the whole session on an emulator.
        run_timeout_s: limit of one inference.
        progress: gets one line of status at a time.
    """

    flash_model: str = "f407"
    profile: bool = False
    io: Literal["auto", "usart", "semihosting"] = "auto"
    openocd: OpenOcd = field(default_factory=OpenOcd)
    timeout_s: float = 600.0
    run_timeout_s: float = 120.0
    progress: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True)
class RunResult:
    """What came of it.

    Args:
        board: ``virtual``, ``qemu`` or ``openocd``.
        info: what the firmware said about itself (clock reached, flags, tensors).
        outputs: per sample, per output tensor.
        cycles: of the model alone, per sample; None where the board cannot count. Modelled on the virtual board.
        layer_cycles: per layer, mean over the samples; None when not counted.
        memory: link-time sizes, and high-water marks over all samples.
        stats: the virtual board's own statistics, empty elsewhere.
        violations: clock rules broken (virtual board), empty elsewhere.
        profile: cycles per function (virtual board with ``profile``), else empty.
        folded: cycles per call path ``outer;inner`` (likewise), of everything the firmware did.
        messages: the emulator's or debugger's own messages.
        selections: per sample, what the firmware's policy selected; empty without one.
    """

    board: str
    info: BoardInfo
    outputs: list[list[npt.NDArray[Any]]]
    cycles: list[int] | None
    layer_cycles: list[float] | None
    memory: MemoryInfo
    stats: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)
    messages: str = ""
    selections: list[Selection] = field(default_factory=list)

    @property
    def clock_hz(self) -> int:
        """Core clock the firmware reached."""
        return self.info.clock_hz

    @property
    def stack_bytes(self) -> int:
        """Deepest use of the stack, by painting."""
        return self.memory.stack_used

    @property
    def arena_bytes(self) -> int:
        """Highest byte of the arena that was used, by painting."""
        return self.memory.arena_used


def start(elf: Path, board: str, options: RunOptions, *, work: Path | None = None) -> ByteStream:
    """Start ``elf`` on ``board``. The virtual board's statistics go to ``work``/stats.json and profile.json.

    Raises:
        ToolError: an unknown board, or a tool that is missing.
    """
    if board == "qemu":
        return qemu.start(elf, timeout_s=options.timeout_s, semihosting=options.io != "usart")
    if board == "openocd":
        return options.openocd.start(elf)
    if board == "virtual":
        from rqdkm.board import virtual  # builds itself on first use

        return virtual.start(
            elf,
            flash_model=options.flash_model,
            stats=work / "stats.json" if work else None,
            profile=work / "profile.json" if work and options.profile else None,
            folded=work / "folded.txt" if work and options.profile else None,
            timeout_s=options.timeout_s,
            progress=options.progress,
        )
    raise ToolError(f"unknown board '{board}'", hint=f"choose one of {', '.join(BOARDS)}")


def run_samples(
    elf: Path,
    board: str,
    inputs: Sequence[Sequence[npt.NDArray[Any]]],
    options: RunOptions | None = None,
) -> RunResult:
    """Run every sample of ``inputs`` (a list of the model's input tensors each) in one session.

    Raises:
        DataError: an input does not fit the model.
        BoardError: the board does not answer, the model fails or crashes.
        ToolError: the board's program is missing.
    """
    options = options or RunOptions()
    if not inputs:
        raise DataError("no samples to run")
    if not Path(elf).is_file():
        raise ToolError("no such firmware", where=str(elf))
    with tempfile.TemporaryDirectory(prefix="rqdkm-run-") as folder:
        work = Path(folder)
        options.progress(f"starting {board}")
        client = BoardClient(
            start(Path(elf), board, options, work=work),
            elf=Path(elf),
            where=f"{board} board",
            run_timeout_s=options.run_timeout_s,
        )
        try:
            info = client.connect(ready_timeout_s=3.0 if board == "openocd" else 30.0)
            log.info("%s: %s at %.0f MHz (%s)", board, info.model, info.clock_hz / 1e6, info.clock_source.name)
            outputs, cycles, layers, selections = _run_all(client, inputs, options.progress, board)
            memory = client.memory()
            ended = client.exit(0)
        finally:
            client.close()
        if board != "openocd" and ended.code != 0:
            raise BoardError(
                f"the program ended with code {ended.code} after all samples", where=board, hint=ended.messages[-400:]
            )
        stats, profile = _read_json(work / "stats.json"), _read_json(work / "profile.json")
        folded = _read_folded(work / "folded.txt")
    return RunResult(
        board=board,
        info=info,
        outputs=outputs,
        cycles=cycles if info.has_cycles else None,
        layer_cycles=layers,
        memory=memory,
        stats=stats,
        violations=[_violation(entry) for entry in stats.get("violations", [])],
        profile=profile,
        folded=folded,
        messages=ended.messages,
        selections=selections,
    )


def _run_all(
    client: BoardClient,
    inputs: Sequence[Sequence[npt.NDArray[Any]]],
    progress: Callable[[str], None],
    board: str,
) -> tuple[list[list[npt.NDArray[Any]]], list[int], list[float] | None, list[Selection]]:
    """Outputs and cycles per sample, the mean cycles per layer, and what a policy selected."""
    outputs: list[list[npt.NDArray[Any]]] = []
    cycles: list[int] = []
    layers: list[list[int]] = []
    selections: list[Selection] = []
    for number, sample in enumerate(inputs, 1):
        progress(f"{board}: sample {number} of {len(inputs)}")
        result = client.infer(sample)
        outputs.append(result.outputs)
        cycles.append(result.cycles or 0)
        if client.info.has_policy:
            selections.append(client.selection())
        counted = client.layer_cycles()
        if counted is not None:
            layers.append(counted)
    return outputs, cycles, [float(mean) for mean in np.mean(layers, axis=0)] if layers else None, selections


def _violation(entry: dict[str, Any]) -> str:
    """One line for a clock rule that the virtual board saw broken."""
    return f"{entry['kind']}: {entry['reason']} (pc {entry['pc']}, {entry['count']} times)"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return content if isinstance(content, dict) else {"profile": content}


def _read_folded(path: Path) -> dict[str, int]:
    """``path cycles`` lines."""
    if not path.is_file():
        return {}
    rows = (line.rpartition(" ") for line in path.read_text().splitlines() if line)
    return {stack: int(cycles) for stack, _, cycles in rows}
