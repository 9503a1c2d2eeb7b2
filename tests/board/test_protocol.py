"""The protocol server answers every request, refuses every bad one, and never hangs (host build, sanitized)."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board.framing import HEADER_BYTES, Decoder, Frame, encode
from rqdkm.board.protocol import BoardClient, ErrorCode, Message
from rqdkm.board.stream import ExitInfo, ProcessStream, StreamClosedError
from rqdkm_tvm.errors import BoardError, DataError
from tests.board.conftest import HANG, STATUS, expected, sample


class Line:
    """Raw frames to and from the host server."""

    def __init__(self, server: Path) -> None:
        self.stream = ProcessStream([server])
        self.decoder = Decoder()
        self.frames: list[Frame] = []
        assert self.receive().type == Message.READY

    def send(self, data: bytes) -> None:
        self.stream.write(data)

    def receive(self, timeout_s: float = 5.0) -> Frame:
        deadline = time.monotonic() + timeout_s
        while not self.frames:
            assert time.monotonic() < deadline, "no answer"
            self.frames += self.decoder.feed(self.stream.read(4096, 0.2))
        return self.frames.pop(0)

    def quiet(self, seconds: float = 0.2) -> bool:
        return not self.frames and not self.decoder.feed(self.stream.read(4096, seconds))

    def ask(self, kind: int, payload: bytes = b"", sequence: int = 1) -> Frame:
        self.send(encode(Frame(kind, sequence, payload)))
        return self.receive()


@pytest.fixture
def line(host_server: Path):
    line = Line(host_server)
    yield line
    ended = line.stream.close()
    assert "Sanitizer" not in ended.messages and "runtime error" not in ended.messages, ended.messages


def error(frame: Frame) -> tuple[int, int, int]:
    assert frame.type == Message.ERROR
    return struct.unpack("<BBI", frame.payload)


def test_it_says_what_it_is(host: BoardClient) -> None:
    info = host.info
    assert (info.board, info.model, info.model_id) == ("host", "dummy", 0xC0FFEE01)
    assert [(t.name, t.shape, t.dtype, t.bytes, t.scale, t.zero_point) for t in info.inputs] == [
        ("image", (1, 2, 25, 32), np.int8, 1600, 0.5, -3),
        ("mode", (1,), np.int8, 1, 1.0, 0),
    ]
    assert [(t.name, t.scale, t.zero_point) for t in info.outputs] == [("sum", 0.25, 7), ("runs", 1.0, 0)]
    assert info.layer_count == 2 and info.payload_max == 512


def test_outputs_are_the_models(host: BoardClient) -> None:
    for number in range(1, 6):
        inputs = sample(number)
        result = host.infer(inputs)
        np.testing.assert_array_equal(result.outputs[0], expected(inputs))
        assert result.outputs[1][0] == number
        assert result.cycles is not None and result.cycles > 0
    layers = host.layer_cycles()
    assert layers is not None and len(layers) == 2


def test_high_water_of_the_arena_is_the_last_byte_used(host: BoardClient) -> None:
    assert host.memory().arena_used == 0
    host.infer(sample(1))
    assert host.memory().arena_used == 2048 + 1600
    host.paint()
    assert host.memory().arena_used == 0


def test_exit_code_is_the_hosts(host: BoardClient) -> None:
    assert host.exit(42).code == 42


def test_a_closed_stream_ends_the_server(host_server: Path) -> None:
    stream = ProcessStream([host_server])
    started = time.monotonic()
    assert stream.close().code == 0
    assert time.monotonic() - started < 30


def test_reset_starts_again(line: Line) -> None:
    assert line.ask(Message.RESET).type == Message.RESET | 0x80
    assert line.receive().type == Message.READY


def test_model_status_is_an_error(host: BoardClient) -> None:
    with pytest.raises(BoardError, match="status -2"):
        host.infer(sample(1, STATUS))


def test_a_model_that_hangs_is_reported_in_bounded_time(host_server: Path) -> None:
    client = BoardClient(ProcessStream([host_server], grace_s=0.2), timeout_s=1.0, run_timeout_s=1.0)
    client.connect()
    started = time.monotonic()
    with pytest.raises(BoardError, match="no good answer to RUN"):
        client.infer(sample(1, HANG))
    client.close()
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [np.zeros((1, 2, 25, 32), np.int8)],
        [np.zeros((1, 2, 25, 31), np.int8), np.zeros(1, np.int8)],
        [np.zeros((1, 2, 25, 32), np.float32), np.zeros(1, np.int8)],
    ],
)
def test_inputs_that_do_not_fit_are_refused(host: BoardClient, inputs: list[np.ndarray]) -> None:
    with pytest.raises(DataError):
        host.infer(inputs)


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (0x70, b"", ErrorCode.UNKNOWN),
        (0x00, b"x" * 512, ErrorCode.UNKNOWN),
        (Message.STRING, b"", ErrorCode.BAD_SIZE),
        (Message.STRING, struct.pack("<BH", 9, 0), ErrorCode.BAD_INDEX),
        (Message.STRING, struct.pack("<BH", 1, 6), ErrorCode.BAD_RANGE),
        (Message.TENSOR, b"1234", ErrorCode.BAD_SIZE),
        (Message.TENSOR, struct.pack("<BH", 0, 2), ErrorCode.BAD_INDEX),
        (Message.WRITE, b"12345", ErrorCode.BAD_SIZE),
        (Message.WRITE, struct.pack("<HI", 2, 0), ErrorCode.BAD_INDEX),
        (Message.WRITE, struct.pack("<HI", 0, 1600) + b"x", ErrorCode.BAD_RANGE),
        (Message.WRITE, struct.pack("<HI", 0, 0xFFFFFFFF) + b"xx", ErrorCode.BAD_RANGE),
        (Message.WRITE, struct.pack("<HI", 1, 0) + b"x" * 500, ErrorCode.BAD_RANGE),
        (Message.RUN, b"x", ErrorCode.BAD_SIZE),
        (Message.READ, b"", ErrorCode.BAD_SIZE),
        (Message.READ, struct.pack("<HIH", 2, 0, 1), ErrorCode.BAD_INDEX),
        (Message.READ, struct.pack("<HIH", 0, 1600, 1), ErrorCode.BAD_RANGE),
        (Message.READ, struct.pack("<HIH", 0, 0, 513), ErrorCode.BAD_RANGE),
        (Message.READ, struct.pack("<HIH", 0, 0xFFFFFFFF, 2), ErrorCode.BAD_RANGE),
        (Message.LAYER_CYCLES, struct.pack("<HH", 1, 2), ErrorCode.BAD_RANGE),
        (Message.LAYER_CYCLES, struct.pack("<HH", 65535, 65535), ErrorCode.BAD_RANGE),
        (Message.EXIT, b"", ErrorCode.BAD_SIZE),
    ],
)
def test_bad_requests_are_refused_and_the_session_goes_on(line: Line, kind: int, payload: bytes, code: int) -> None:
    got, request, _ = error(line.ask(kind, payload))
    assert (got, request) == (code, kind)
    assert line.ask(Message.HELLO, sequence=2).type == Message.HELLO | 0x80


def test_a_damaged_frame_is_answered_with_bad_crc(line: Line) -> None:
    frame = bytearray(encode(Frame(Message.STRING, 9, struct.pack("<BH", 1, 0))))
    frame[HEADER_BYTES] ^= 0x10
    line.send(bytes(frame))
    answer = line.receive()
    assert error(answer)[:2] == (ErrorCode.BAD_CRC, Message.STRING) and answer.sequence == 9
    assert line.ask(Message.HELLO).type == Message.HELLO | 0x80


def test_a_length_beyond_the_limit_is_answered_with_bad_length(line: Line) -> None:
    line.send(encode(Frame(Message.WRITE, 3, bytes(513)))[:HEADER_BYTES])
    assert error(line.receive())[0] == ErrorCode.BAD_LENGTH
    assert line.ask(Message.HELLO).type == Message.HELLO | 0x80


def test_a_frame_cut_short_is_answered_with_timeout(line: Line) -> None:
    line.send(encode(Frame(Message.WRITE, 3, bytes(100)))[:50])
    code, _, detail = error(line.receive())
    assert (code, detail) == (ErrorCode.TIMEOUT, 50)
    assert line.ask(Message.HELLO).type == Message.HELLO | 0x80


def test_a_repeated_request_is_answered_again_but_not_carried_out_again(line: Line) -> None:
    first = line.ask(Message.RUN, sequence=5)
    assert line.ask(Message.RUN, sequence=5) == first  # the very same cycles: no new run
    runs = line.ask(Message.READ, struct.pack("<HIH", 1, 0, 1), sequence=6)
    assert runs.payload == b"\x01"
    assert line.ask(Message.RUN, sequence=7).type == Message.RUN | 0x80
    assert line.ask(Message.READ, struct.pack("<HIH", 1, 0, 1), sequence=8).payload == b"\x02"


def test_text_between_frames_disturbs_nothing(line: Line) -> None:
    line.send(b"hello? \xa5 \x5a \xa5\xa5" + encode(Frame(Message.HELLO, 1)))
    assert line.receive().type == Message.HELLO | 0x80


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_streams_never_crash_or_hang_the_server(line: Line, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [kind for kind in range(16) if kind not in (Message.EXIT, Message.RESET)]
    for _ in range(400):
        payload = rng.randbytes(rng.choice([0, 1, 3, 4, 6, 8, 9, rng.randrange(512)]))
        if rng.random() < 0.5:  # plausible: small indices and offsets
            payload = bytes(byte & 1 if at < 8 else byte for at, byte in enumerate(payload))
        kind = rng.choice(kinds)
        if kind == Message.WRITE:  # may not ask the dummy model for a crash
            payload = b"\0\0" + payload[2:]
        frame = bytearray(encode(Frame(kind, rng.randrange(256), payload)))
        fate = rng.random()
        if fate < 0.3:
            frame[rng.randrange(len(frame))] ^= rng.randrange(1, 256)
        elif fate < 0.4:
            del frame[rng.randrange(len(frame)) :]
        elif fate < 0.5:
            frame = bytearray(rng.randbytes(rng.randrange(1, 600)))
        line.send(bytes(frame))
        line.decoder.feed(line.stream.read(65536, 0.0))
    line.send(bytes(600))  # whatever it still waited for
    while line.decoder.feed(line.stream.read(65536, 0.3)):
        pass
    assert line.ask(Message.HELLO, sequence=77).sequence == 77


class Damaging:
    """A stream that damages or loses part of what passes, both ways."""

    def __init__(self, inner: ProcessStream, seed: int, rate: float) -> None:
        self.inner, self.rng, self.rate, self.damaged = inner, random.Random(seed), rate, 0

    def _spoil(self, data: bytes) -> bytes:
        if not data or self.rng.random() > self.rate:
            return data
        self.damaged += 1
        spoiled = bytearray(data)
        at = self.rng.randrange(len(spoiled))
        if self.rng.random() < 0.5:
            spoiled[at] ^= self.rng.randrange(1, 256)
        else:
            del spoiled[at : at + self.rng.randrange(1, 4)]
        return bytes(spoiled)

    def read(self, size: int, timeout_s: float) -> bytes:
        return self._spoil(self.inner.read(size, timeout_s))

    def write(self, data: bytes) -> None:
        self.inner.write(self._spoil(data))

    def close(self) -> ExitInfo:
        return self.inner.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_noisy_line_costs_time_but_no_wrong_byte(host_server: Path, seed: int) -> None:
    noisy = Damaging(ProcessStream([host_server]), seed, 0.08)
    client = BoardClient(noisy, timeout_s=3.0, run_timeout_s=1.0)
    client.connect(ready_timeout_s=1.0)
    for number in range(1, 9):
        inputs = sample(number)
        result = client.infer(inputs)
        np.testing.assert_array_equal(result.outputs[0], expected(inputs))
        assert result.outputs[1][0] == number  # every run ran once
    client.close()
    assert noisy.damaged >= 5


class Scripted:
    """A stream that says what the test wants, then nothing; or ends."""

    def __init__(self, *answers: bytes, ends: bool = False) -> None:
        self.answers, self.ends = list(answers), ends

    def read(self, size: int, timeout_s: float) -> bytes:
        if self.answers:
            return self.answers.pop(0)
        if self.ends:
            raise StreamClosedError("ended", where="script")
        return b""

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> ExitInfo:
        return ExitInfo(3, "boom")


def test_another_protocol_version_is_refused_with_a_hint() -> None:
    hello = struct.pack("<HHIIBBHHH", 2, 512, 1, 1, 0, 0, 1, 1, 0)
    stream = Scripted(encode(Frame(Message.READY, 0)), encode(Frame(Message.HELLO | 0x80, 1, hello)))
    with pytest.raises(BoardError, match=r"protocol version 2.*\n.*build the firmware again"):
        BoardClient(stream).connect()


def test_a_program_that_ends_is_reported_with_code_and_last_words() -> None:
    with pytest.raises(BoardError, match="code 3") as caught:
        BoardClient(Scripted(b"panic: no model\r\n", ends=True)).connect()
    assert "panic: no model" in caught.value.hint


def test_a_silent_board_is_reported_in_bounded_time() -> None:
    started = time.monotonic()
    with pytest.raises(BoardError, match="no good answer to HELLO"):
        BoardClient(Scripted(), timeout_s=0.5).connect(ready_timeout_s=0.1)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("seed", range(3))
def test_a_babbling_board_is_reported_in_bounded_time_and_memory(seed: int) -> None:
    """A wrong baud rate looks like this: bytes without end, never a frame."""
    rng = random.Random(seed)

    class Babbling(Scripted):
        def read(self, size: int, timeout_s: float) -> bytes:
            time.sleep(0.001)
            return bytes(rng.choice(b"\xa5\x5a\x00\xff\x81") for _ in range(min(size, 64)))

    client = BoardClient(Babbling(), timeout_s=0.5)
    started = time.monotonic()
    with pytest.raises(BoardError, match="no good answer to HELLO"):
        client.connect(ready_timeout_s=0.2)
    assert time.monotonic() - started < 30
    assert len(client.text) <= 16384
