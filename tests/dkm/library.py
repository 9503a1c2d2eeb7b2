"""The C of ``tflm_ops/src/morph`` as a shared library, undefined behaviour trapped, and its structs for ctypes."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

from rqdkm.dkm.state import RANGES
from rqdkm_tvm.sources import tflm_ops_dir

KERNELS = 5


class State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in RANGES]


class Monitor(ctypes.Structure):
    _fields_ = [("cycles", ctypes.POINTER(ctypes.c_uint32)), ("safe", ctypes.c_int32), ("load", ctypes.c_float)]


class Policy(ctypes.Structure):
    _fields_ = [
        ("head", ctypes.c_void_p),
        ("bias", ctypes.c_void_p * 3),
        ("weights", ctypes.c_void_p * 3),
    ]


Dispatch = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(State), ctypes.c_void_p)


class Morph(ctypes.Structure):
    _fields_ = [
        ("dispatch", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("kernels", ctypes.c_int32),
        ("safe", ctypes.c_int32),
        ("selected", ctypes.c_int32),
        ("frames", ctypes.c_uint32),
        ("fallbacks", ctypes.c_uint32),
        ("last", ctypes.c_int32),
        ("chosen", ctypes.c_uint32 * KERNELS),
    ]


OK, BAD_STATE, BAD_DECISION = 0, 1, 2


@functools.cache
def load() -> ctypes.CDLL:
    root = tflm_ops_dir()
    sources = [*sorted((root / "src" / "morph").glob("*.c")), root / "src" / "port" / "crc32.c"]
    target = Path(tempfile.mkdtemp()) / "morph.so"
    flags = ["-O1", "-std=gnu99", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fPIC", "-shared"]
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror"]
    includes = ["-I", str(root / "include"), "-I", str(root / "src")]
    subprocess.run(["gcc", *flags, *warnings, *includes, *map(str, sources), "-lm", "-o", str(target)], check=True)
    found = ctypes.CDLL(str(target))
    found.rqdkm_morph_init.argtypes = [
        ctypes.POINTER(Morph),
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    found.rqdkm_morph_sense.argtypes = [
        ctypes.POINTER(Monitor),
        ctypes.c_uint32,
        ctypes.c_float,
        ctypes.c_float,
        ctypes.POINTER(State),
    ]
    return found


def aligned(blob: bytes) -> ctypes.Array[ctypes.c_uint32]:
    """A copy that begins at a word."""
    words = (ctypes.c_uint32 * (len(blob) // 4 + 1))()
    ctypes.memmove(words, blob, len(blob))
    return words
