"""Frames survive noise, damage and cuts, in the firmware's decoder and in the host's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqdkm.board.framing import Decoder, Frame, encode
from tests.board.conftest import FIXTURES, compile_host, run

frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=600))


def test_the_frame_on_the_line_is_the_documented_one() -> None:
    # CRC-32 of 05 07 02 00 fd ff 68 69, computed with a bit-by-bit implementation of the polynomial
    assert encode(Frame(5, 7, b"hi")) == bytes.fromhex("a55a05070200fdff6869") + _crc(bytes.fromhex("05070200fdff6869"))


def _crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


@settings(deadline=None)
@given(st.lists(frames, max_size=5), st.integers(1, 700))
def test_frames_come_out_whatever_the_pieces(sent: list[Frame], piece: int) -> None:
    line = b"".join(map(encode, sent))
    decoder = Decoder()
    got = [frame for start in range(0, len(line), piece) for frame in decoder.feed(line[start : start + piece])]
    assert got == sent
    assert decoder.bad_frames == 0


@settings(deadline=None, max_examples=300)
@given(frames, st.data())
def test_a_damaged_frame_is_dropped_and_the_next_one_found(frame: Frame, data: st.DataObject) -> None:
    line = bytearray(encode(frame))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    good = Frame(1, 2, b"good")
    decoder = Decoder()
    got = decoder.feed(bytes(line) + encode(good) + bytes(5000))
    assert got == [good]


@settings(deadline=None)
@given(st.lists(st.one_of(frames, st.binary(max_size=40).filter(lambda noise: b"\xa5" not in noise))))
def test_what_stands_between_frames_is_text(parts: list[Frame | bytes]) -> None:
    decoder = Decoder()
    got = decoder.feed(b"".join(part if isinstance(part, bytes) else encode(part) for part in parts))
    assert got == [part for part in parts if isinstance(part, Frame)]
    assert decoder.text == b"".join(part for part in parts if isinstance(part, bytes)).decode(errors="replace")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_firmware_decoder_finds_every_whole_frame_in_damaged_streams(tmp_path: Path, seed: int) -> None:
    program = compile_host(tmp_path / "frame_fuzz", FIXTURES / "frame_fuzz.c")
    report = run(program, str(seed), "20000")
    streams, found, rejections = (int(word) for word in report.split() if word.isdigit())
    assert streams == 20000
    assert found > 50000 and rejections > 50000  # the test has tested something
