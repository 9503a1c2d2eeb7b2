"""The host's side of the board protocol (docs/board.md): typed requests and replies over any byte stream.

One request is under way at a time. Each has a sequence number and is repeated when it or its reply got damaged; the
firmware recognises a repetition and does not run the model twice.
"""

from __future__ import annotations

import enum
import logging
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.board.faults import Fault
from rqdkm.board.framing import Decoder, Frame, encode
from rqdkm.board.stream import ByteStream, ExitInfo, StreamClosedError
from rqdkm_tvm.errors import BoardError, DataError

log = logging.getLogger(__name__)

VERSION = 1
DTYPES: tuple[type[np.generic], ...] = (np.int8, np.float32, np.uint8, np.int16, np.int32)  # by rqdkm_tensor_info.dtype
_ATTEMPTS = 5
_STRINGS = ("board", "model", "flags", "compiler")


class Message(enum.IntEnum):
    """Message types; ``tflm_ops/src/port/server.h`` has the same list."""

    HELLO = 0x01
    STRING = 0x02
    TENSOR = 0x03
    WRITE = 0x04
    RUN = 0x05
    READ = 0x06
    LAYER_CYCLES = 0x07
    MEMORY = 0x08
    PAINT = 0x09
    EXIT = 0x0A
    RESET = 0x0B
    CONTEXT = 0x0C
    MORPH = 0x0D
    READY = 0xFD
    FAULT = 0xFE
    ERROR = 0xFF


class ErrorCode(enum.IntEnum):
    """Why the firmware refused; the first three are line errors, and the request is repeated."""

    BAD_CRC = 1
    BAD_LENGTH = 2
    TIMEOUT = 3
    UNKNOWN = 4
    BAD_SIZE = 5
    BAD_INDEX = 6
    BAD_RANGE = 7


_LINE_ERRORS = (ErrorCode.BAD_CRC, ErrorCode.BAD_LENGTH, ErrorCode.TIMEOUT)


class ClockSource(enum.IntEnum):
    """What feeds the core clock; ``rqdkm_clock_source`` of port.h."""

    INTERNAL = 0
    INTERNAL_PLL = 1
    CRYSTAL_PLL = 2


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: ``real = scale * (q - zero_point)``, shape NHWC."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bytes: int
    scale: float
    zero_point: int


@dataclass(frozen=True)
class BoardInfo:
    """What the firmware says about itself. ``clock_hz`` is the core clock it reached."""

    board: str
    model: str
    model_id: int
    flags: str
    compiler: str
    clock_hz: int
    clock_source: ClockSource
    has_cycles: bool
    has_layer_cycles: bool
    has_policy: bool
    payload_max: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layer_count: int


@dataclass(frozen=True)
class MemoryInfo:
    """Bytes. ``*_used`` are high-water marks by painting; the rest is fixed at link time.

    ``flash`` = ``code`` (with read-only data and initial values) + ``weights``.
    """

    stack: int
    stack_used: int
    arena: int
    arena_used: int
    data: int
    bss: int
    workspace: int
    code: int
    weights: int
    flash: int


@dataclass(frozen=True)
class Selection:
    """What the policy of a morphing model did.

    Args:
        kernels: that there are; ``safe`` and ``selected`` are numbers of them.
        event: of the last frame: 0 decided, 1 a state that is no number, 2 no answer (``rqdkm_morph_event``).
        frames: since the start.
        fallbacks: of these, how often the safe kernel ran for want of an answer.
        cycles: that looking at the last input and deciding took.
    """

    kernels: int
    safe: int
    selected: int
    event: int
    frames: int
    fallbacks: int
    cycles: int


@dataclass(frozen=True)
class Inference:
    """Outputs of one run, and the cycles of ``rqdkm_model_run`` alone (None where the board cannot count)."""

    outputs: list[npt.NDArray[Any]]
    cycles: int | None


class FaultError(BoardError):
    """The firmware crashed; ``fault`` holds its report."""

    def __init__(self, fault: Fault, elf: Path | None, where: str) -> None:
        hint = "give the firmware more stack (RQDKM_STACK_BYTES)" if fault.stack_overflow else ""
        super().__init__(f"the firmware crashed: {fault.describe(elf)}", where=where, hint=hint)
        self.fault = fault


class BoardClient:
    """A session with the firmware behind ``stream``; owns the stream.

    Args:
        elf: the firmware's ELF file, for symbol names in fault reports.
        where: what to call the board in messages.
        timeout_s: how long any reply but that of a run may take.
        run_timeout_s: how long one inference may take.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        elf: Path | None = None,
        where: str = "board",
        timeout_s: float = 10.0,
        run_timeout_s: float = 120.0,
    ) -> None:
        self._stream = stream
        self._elf = elf
        self._where = where
        self._timeout_s = timeout_s
        self._run_timeout_s = run_timeout_s
        self._decoder = Decoder()
        self._sequence = 0
        self._info: BoardInfo | None = None

    @property
    def text(self) -> str:
        """What the firmware printed between frames."""
        return self._decoder.text

    @property
    def info(self) -> BoardInfo:
        """Of the last :meth:`connect`."""
        if self._info is None:
            raise BoardError("not connected", where=self._where)
        return self._info

    def connect(self, *, ready_timeout_s: float = 3.0) -> BoardInfo:
        """Waits for the program to start (or to answer, when it already runs) and asks what it is.

        Raises:
            BoardError: no answer, another protocol version, or a crash.
        """
        self._wait_ready(ready_timeout_s)
        hello = self._request(Message.HELLO)
        head = struct.Struct("<HHIIBBHHH")
        if len(hello) < head.size:
            raise BoardError(f"a greeting of {len(hello)} bytes", where=self._where)
        version, payload_max, model_id, clock, source, flags, inputs, outputs, layers = head.unpack_from(hello)
        if version != VERSION:
            raise BoardError(
                f"the firmware speaks protocol version {version}, this program {VERSION}",
                where=self._where,
                hint="build the firmware again with this version",
            )
        strings = dict(zip(_STRINGS, map(self._string, range(len(_STRINGS))), strict=True))
        self._info = BoardInfo(
            **strings,
            model_id=model_id,
            clock_hz=clock,
            clock_source=ClockSource(source),
            has_cycles=bool(flags & 1),
            has_layer_cycles=bool(flags & 2),
            has_policy=bool(flags & 4),
            payload_max=payload_max,
            inputs=tuple(self._tensor(0, index) for index in range(inputs)),
            outputs=tuple(self._tensor(1, index) for index in range(outputs)),
            layer_count=layers,
        )
        return self._info

    def infer(self, inputs: Sequence[npt.NDArray[Any]]) -> Inference:
        """Sends the input tensors, runs the model once, fetches the outputs.

        Raises:
            DataError: number, type or size of the inputs does not fit the model.
            BoardError: the board does not answer, the model returned an error, or it crashed.
        """
        info = self.info
        if len(inputs) != len(info.inputs):
            raise DataError(f"the model has {len(info.inputs)} inputs, {len(inputs)} were given", where=self._where)
        for index, (tensor, array) in enumerate(zip(info.inputs, inputs, strict=True)):
            self._write_input(index, tensor, array)
        status, cycles = struct.unpack("<iI", self._exactly(8, Message.RUN, timeout_s=self._run_timeout_s))
        if status != 0:
            raise BoardError(f"the model returned status {status}", where=self._where)
        outputs = [self._read_output(index, tensor) for index, tensor in enumerate(info.outputs)]
        return Inference(outputs, cycles if info.has_cycles else None)

    def layer_cycles(self) -> list[int] | None:
        """Cycles of every layer in the last run; None when the firmware does not count them."""
        if not (self.info.has_layer_cycles and self.info.has_cycles):
            return None
        cycles: list[int] = []
        while len(cycles) < self.info.layer_count:
            count = min(self.info.layer_count - len(cycles), self.info.payload_max // 4)
            request = struct.pack("<HH", len(cycles), count)
            cycles += struct.unpack(f"<{count}I", self._exactly(4 * count, Message.LAYER_CYCLES, request))
        return cycles

    def context(self, load: float, memory: float, clock: float, slack: float) -> None:
        """What the policy is told of the frames that follow, instead of what the firmware measures itself."""
        self._exactly(0, Message.CONTEXT, struct.pack("<4f", load, memory, clock, slack))

    def selection(self) -> Selection:
        """What the policy selected for the last run.

        Raises:
            BoardError: the firmware has no policy (``info.has_policy``).
        """
        return Selection(*struct.unpack("<4B3I", self._exactly(16, Message.MORPH)))

    def memory(self) -> MemoryInfo:
        """Sizes, and the high-water marks since the start or the last :meth:`paint`."""
        return MemoryInfo(*struct.unpack("<10I", self._exactly(40, Message.MEMORY)))

    def paint(self) -> None:
        """Starts new high-water marks. Whatever the inputs held is lost."""
        self._exactly(0, Message.PAINT)

    def exit(self, code: int = 0) -> ExitInfo:
        """Ends the program with ``code`` (on an emulator; a real board restarts) and closes the stream."""
        self._exactly(0, Message.EXIT, struct.pack("<i", code))
        return self.close()

    def close(self) -> ExitInfo:
        """Closes the stream without asking the firmware. May be called twice."""
        return self._stream.close()

    def _wait_ready(self, timeout_s: float) -> None:
        """Returns on READY, and after ``timeout_s`` without it: the program may have started long ago."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            for frame in self._receive(left):
                if frame.type == Message.READY:
                    return

    def _string(self, which: int) -> str:
        text = b""
        while part := self._request(Message.STRING, struct.pack("<BH", which, len(text))):
            text += part
        return text.decode(errors="replace")

    def _tensor(self, direction: int, index: int) -> TensorInfo:
        payload = self._request(Message.TENSOR, struct.pack("<BH", direction, index))
        head = struct.Struct("<IfiBB5i")
        if len(payload) < head.size:
            raise BoardError(f"a tensor description of {len(payload)} bytes", where=self._where)
        size, scale, zero_point, dtype, rank, *shape = head.unpack_from(payload)
        if dtype >= len(DTYPES) or rank > len(shape):
            raise BoardError(f"tensor {index} has unknown type {dtype} or rank {rank}", where=self._where)
        name = payload[head.size :].decode(errors="replace")
        return TensorInfo(name, tuple(shape[:rank]), np.dtype(DTYPES[dtype]), size, scale, zero_point)

    def _write_input(self, index: int, tensor: TensorInfo, array: npt.NDArray[Any]) -> None:
        if array.dtype != tensor.dtype or array.nbytes != tensor.bytes:
            raise DataError(
                f"needs {tensor.dtype} of shape {tensor.shape}, got {array.dtype} of shape {array.shape}",
                where=f"input {tensor.name or index}",
            )
        data = np.ascontiguousarray(array).tobytes()
        part = self.info.payload_max - 6
        for offset in range(0, len(data), part):
            self._exactly(0, Message.WRITE, struct.pack("<HI", index, offset) + data[offset : offset + part])

    def _read_output(self, index: int, tensor: TensorInfo) -> npt.NDArray[Any]:
        data = b""
        while len(data) < tensor.bytes:
            size = min(tensor.bytes - len(data), self.info.payload_max)
            data += self._exactly(size, Message.READ, struct.pack("<HIH", index, len(data), size))
        array: npt.NDArray[Any] = np.frombuffer(data, tensor.dtype).reshape(tensor.shape).copy()
        return array

    def _exactly(self, size: int, message: Message, payload: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        reply = self._request(message, payload, timeout_s=timeout_s)
        if len(reply) != size:
            raise BoardError(f"{message.name} answered with {len(reply)} bytes, not {size}", where=self._where)
        return reply

    def _request(self, message: Message, payload: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        """One request and its reply's payload. ``timeout_s`` is how long it may take to carry out."""
        self._sequence = (self._sequence + 1) & 0xFF
        frame = encode(Frame(message, self._sequence, payload))
        retry_s = self._timeout_s / _ATTEMPTS
        for attempt in range(_ATTEMPTS):
            self._write(frame)
            reply = self._reply(message, timeout_s if timeout_s is not None and attempt == 0 else retry_s)
            if reply is not None:
                return reply
            log.info("%s: no good answer to %s, attempt %d", self._where, message.name, attempt + 1)
        damaged = self._decoder.bad_frames
        raise BoardError(
            f"no good answer to {message.name} within {timeout_s or self._timeout_s:g} s"
            + (f", {damaged} frames came damaged" if damaged else ""),
            where=self._where,
            hint=self._tail() or "is this firmware built for this connection (RQDKM_IO, RQDKM_BAUD), and running?",
        )

    def _reply(self, message: Message, timeout_s: float) -> bytes | None:
        """The reply's payload; None when the request has to be repeated."""
        deadline = time.monotonic() + timeout_s
        bad_before = self._decoder.bad_frames
        while (left := deadline - time.monotonic()) > 0:
            damaged = self._decoder.bad_frames > bad_before
            frames = self._receive(min(left, 0.5) if damaged else left)
            for frame in frames:
                if frame.type == Message.READY:
                    if message == Message.HELLO:  # it came late, the greeting was lost
                        return None
                    raise BoardError(f"the board restarted during {message.name}", where=self._where)
                if frame.type == Message.ERROR and self._refused(frame, message):
                    return None
                if frame.sequence == self._sequence and frame.type == message | 0x80:
                    return frame.payload
            if damaged and not frames:  # what came was the reply, broken
                return None
        return None

    def _refused(self, frame: Frame, message: Message) -> bool:
        """True for line errors: repeat. Raises for a request that the firmware does not want."""
        if len(frame.payload) != 6:
            raise BoardError(f"an error reply of {len(frame.payload)} bytes", where=self._where)
        code, _, detail = struct.unpack("<BBI", frame.payload)
        if code in _LINE_ERRORS:
            return True
        if frame.sequence != self._sequence:  # a second answer to an earlier, repeated request
            return False
        name = ErrorCode(code).name if code in set(ErrorCode) else str(code)
        raise BoardError(f"{message.name} was refused: {name} ({detail})", where=self._where)

    def _receive(self, timeout_s: float) -> list[Frame]:
        try:
            frames = self._decoder.feed(self._stream.read(4096, timeout_s))
        except StreamClosedError as error:
            exit_info = self._stream.close()
            raise BoardError(
                f"the program ended unexpectedly with code {exit_info.code}",
                where=self._where,
                hint="; ".join(filter(None, (self._tail(), error.hint))),
            ) from error
        for frame in frames:
            if frame.type == Message.FAULT:
                raise FaultError(Fault.parse(frame.payload), self._elf, self._where)
        return frames

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except StreamClosedError:
            self._receive(0.0)  # the reason, a fault report or an exit code, is in what can still be read
            raise

    def _tail(self) -> str:
        """The last line the firmware printed."""
        lines = [line for line in self._decoder.text.splitlines() if line.strip()]
        return f"last words: {lines[-1][:200]}" if lines else ""
