"""Frames of the board protocol on a byte stream; the host's twin of ``tflm_ops/src/port/frame.c``.

::

    offset  0    1    2     3         4       6        8            8 + length
            0xA5 0x5A type  sequence  length  ~length  payload ...  CRC-32 of bytes 2 .. 8 + length - 1

All numbers are little-endian; the CRC is zlib's.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

SYNC = b"\xa5\x5a"
HEADER = struct.Struct("<BBHH")  # type, sequence, length, ~length
HEADER_BYTES = len(SYNC) + HEADER.size
CRC_BYTES = 4
PAYLOAD_LIMIT = 4096  # no firmware sends more; a longer length is noise
_TEXT_KEPT = 16384


@dataclass(frozen=True)
class Frame:
    """One frame: message type and sequence number (0 to 255 each), and up to 4096 bytes of payload."""

    type: int
    sequence: int
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """The frame's bytes on the line."""
    size = len(frame.payload)
    body = HEADER.pack(frame.type, frame.sequence, size, size ^ 0xFFFF) + frame.payload
    return SYNC + body + struct.pack("<I", zlib.crc32(body))


class Decoder:
    """Finds frames in a stream. Bytes between frames are kept as :attr:`text`: the firmware's own printf."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._text = bytearray()
        self.bad_frames = 0

    @property
    def text(self) -> str:
        """What came between the frames, the last 16 KB."""
        return self._text.decode(errors="replace")

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, in order."""
        self._buffer += data
        frames: list[Frame] = []
        while True:
            start = self._buffer.find(SYNC)
            if start < 0:  # the last byte may be the first half of a sync
                start = len(self._buffer) - (1 if self._buffer[-1:] == SYNC[:1] else 0)
            self._skip(start)
            if len(self._buffer) < HEADER_BYTES:
                return frames
            kind, sequence, size, check = HEADER.unpack_from(self._buffer, len(SYNC))
            if size ^ check != 0xFFFF or size > PAYLOAD_LIMIT:
                self._reject()
                continue
            total = HEADER_BYTES + size + CRC_BYTES
            if len(self._buffer) < total:
                return frames
            body = bytes(self._buffer[len(SYNC) : HEADER_BYTES + size])
            if zlib.crc32(body) != int.from_bytes(self._buffer[total - CRC_BYTES : total], "little"):
                self._reject()
                continue
            frames.append(Frame(kind, sequence, body[HEADER.size :]))
            del self._buffer[:total]

    def _reject(self) -> None:
        self.bad_frames += 1
        self._skip(1)

    def _skip(self, count: int) -> None:
        self._text += self._buffer[:count]
        del self._buffer[:count]
        del self._text[:-_TEXT_KEPT]
