"""The C of ``tflm_ops/src/aras`` compiled for this computer, driven through ctypes: simulated is what the chip runs."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rqdkm.aras.table import LEVELS, CTable
from rqdkm_tvm.errors import ToolError
from rqdkm_tvm.sources import tflm_ops_dir

OK, REFUSED, FALLBACK, NO_TIMER = range(4)
FAULTS = ("table", "request", "clock", "cycles", "jump", "time", "overrun")
RUN_ON, SLEEP, DOZE, STOP = range(4)
CAN_STOP, SURPRISED = 1, 2
IDLE_MODES = ("run on", "sleep", "doze", "stop")

#: Undefined behaviour ends the process; the flags of the morphing tests.
FLAGS = (
    *("-O1", "-std=c99", "-fPIC", "-shared"),
    *("-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error"),
)

_CYCLES = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)
_NOW = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)
_SET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_UNTIL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64)


class CPort(ctypes.Structure):
    """``rqdkm_aras_port``."""

    _fields_ = [
        ("context", ctypes.c_void_p),
        ("cycles", _CYCLES),
        ("now_us", _NOW),
        ("clock", _CYCLES),
        ("set_clock", _SET),
        ("sleep", _UNTIL),
        ("doze", _UNTIL),
        ("stop", _UNTIL),
        ("set_priority", _SET),
    ]


class Board:
    """What a port does; simulated chips derive from it."""

    def cycles(self) -> int:
        raise NotImplementedError

    def now_us(self) -> int:
        raise NotImplementedError

    def clock(self) -> int:
        raise NotImplementedError

    def set_clock(self, point: int) -> int:
        raise NotImplementedError

    def sleep(self, until_us: int) -> int:
        raise NotImplementedError

    def doze(self, until_us: int) -> int:
        raise NotImplementedError

    def stop(self, until_us: int) -> int:
        raise NotImplementedError

    def set_priority(self, level: int) -> int:
        raise NotImplementedError


class CPredictor(ctypes.Structure):
    """``rqdkm_predictor``."""

    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        *((name, ctypes.c_float) for name in ("expected", "width", "error", "quantile", "level", "trend")),
        ("history", ctypes.c_float * 8),
        ("weight", ctypes.c_float * 3),
        ("covariance", ctypes.c_float * 6),
    ]


class Aras:
    """One controller: ``rqdkm_aras`` with its table and its port."""

    #: fields of the C struct that can be read, with the type of each
    _READ: dict[str, Any] = {  # noqa: RUF012
        **dict.fromkeys(("frames", "missed", "decisions", "switches", "dropped", "point", "level"), ctypes.c_uint32),
        **dict.fromkeys(
            ("efficient", "clock_failures", "looked_cycles", "glance_cycles", "glance_ticks"), ctypes.c_uint32
        ),
        **dict.fromkeys(("load_inference", "load_rest", "slack", "memory", "masked_us", "gap_us"), ctypes.c_float),
        **dict.fromkeys(("expected", "upper", "worst", "done", "expected_rate", "frame_share"), ctypes.c_float),
        **dict.fromkeys(("stuck", "busy", "make_up"), ctypes.c_bool),
        "window_us": ctypes.c_uint64,
        "idles": ctypes.c_uint32 * len(IDLE_MODES),
        "faults": ctypes.c_uint32 * len(FAULTS),
        "rate": ctypes.c_float * LEVELS,
        **dict.fromkeys(("demand", "wake"), CPredictor),
    }

    def __init__(self, table: CTable, board: Board) -> None:
        self._c = load()
        self.table = table
        self.port = CPort(
            None,
            _CYCLES(lambda _: board.cycles() & 0xFFFFFFFF),
            _NOW(lambda _: board.now_us()),
            _CYCLES(lambda _: board.clock()),
            _SET(lambda _, point: board.set_clock(point)),
            _UNTIL(lambda _, until: board.sleep(until)),
            _UNTIL(lambda _, until: board.doze(until)),
            _UNTIL(lambda _, until: board.stop(until)),
            _SET(lambda _, level: board.set_priority(level)),
        )
        self._memory = ctypes.create_string_buffer(self._c.rqdkm_host_size(b"rqdkm_aras"))
        self.pointer = ctypes.addressof(self._memory)
        self.status = int(self._c.rqdkm_aras_init(self.pointer, ctypes.byref(table), ctypes.byref(self.port)))

    def __getattr__(self, name: str) -> Any:
        if name not in self._READ:
            raise AttributeError(name)
        found = self._READ[name].from_address(self.address(name))
        return found.value if hasattr(found, "value") else found

    def address(self, name: str) -> int:
        """Of a field of the C struct that can be read."""
        return int(self.pointer + self._c.rqdkm_host_offset(name.encode()))

    @property
    def fault_counts(self) -> dict[str, int]:
        return dict(zip(FAULTS, self.faults, strict=True))

    def begin(self, deadline_us: int, cycles: int = 0) -> None:
        self._c.rqdkm_aras_begin(self.pointer, deadline_us, cycles)

    def tick(self) -> None:
        self._c.rqdkm_aras_tick(self.pointer)

    def end(self) -> bool:
        return bool(self._c.rqdkm_aras_end(self.pointer))

    def idle(self, until_us: int, can_stop: bool = True, surprised: bool = False) -> int:
        return int(self._c.rqdkm_aras_idle(self.pointer, until_us, CAN_STOP * can_stop | SURPRISED * surprised))

    def rest_begin(self) -> None:
        self._c.rqdkm_aras_rest_begin(self.pointer)

    def rest_end(self, which: int) -> None:
        self._c.rqdkm_aras_rest_end(self.pointer, which)

    def request(self, point: int) -> int:
        return int(self._c.rqdkm_aras_request(self.pointer, point))

    def set_memory(self, free: int, total: int) -> None:
        self._c.rqdkm_aras_memory(self.pointer, free, total)

    def morph_state(self, cycles: int, limit_us: int) -> tuple[float, float, float, float]:
        """load, memory, clock and slack as DKM is told them."""
        state = (ctypes.c_float * 7)()
        self._c.rqdkm_aras_morph_state(self.pointer, ctypes.byref(state), cycles, limit_us)
        return state[0], state[1], state[2], state[3]


class Predictor:
    """``rqdkm_predictor`` of one kind."""

    def __init__(self, kind: int, quantile: float) -> None:
        self._c, self.state = load(), CPredictor()
        self._c.rqdkm_predictor_init(ctypes.byref(self.state), kind, quantile)

    def update(self, value: float) -> None:
        self._c.rqdkm_predictor_update(ctypes.byref(self.state), value)

    @property
    def expected(self) -> float:
        return float(self.state.expected)

    @property
    def upper(self) -> float:
        return float(self._c.rqdkm_predictor_upper(ctypes.byref(self.state)))


def compile_library(sources: Sequence[Path], shim: str, flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """C files and one given as text as a shared library in a folder that vanishes with the process.

    Raises:
        ToolError: no C compiler, or it fails.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ToolError(
            "no C compiler: simulations run the C library itself",
            hint="install one, on Debian: apt-get install gcc libc6-dev",
        )
    folder = Path(tempfile.mkdtemp(prefix="rqdkm-aras-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "shim.c").write_text(shim)
    root = tflm_ops_dir()
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Wdouble-promotion", "-Werror"]
    command = [compiler, *flags, *warnings, "-I", str(root / "include"), "-I", str(root / "src")]
    command += [*map(str, sources), str(folder / "shim.c"), "-lm", "-o", str(folder / "aras.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError("the ARAS library does not compile", where=compiler, hint=done.stderr[-1500:])
    return ctypes.CDLL(str(folder / "aras.so"))


def _shim() -> str:
    """What ctypes has to know of the C structs: sizes, and where the fields are."""
    fields = "".join(
        f'  if (strcmp(name, "{name}") == 0) return (uint32_t)offsetof(rqdkm_aras, {name});\n' for name in Aras._READ
    )
    sizes = "".join(
        f'  if (strcmp(name, "{name}") == 0) return (uint32_t)sizeof({name});\n'
        for name in ("rqdkm_aras", "rqdkm_aras_table", "rqdkm_aras_port", "rqdkm_predictor", "rqdkm_morph_state")
    )
    return (
        '#include <stddef.h>\n#include <string.h>\n#include "rqdkm/aras.h"\n'
        "uint32_t rqdkm_host_offset(const char *name);\nuint32_t rqdkm_host_size(const char *name);\n"
        f"uint32_t rqdkm_host_offset(const char *name) {{\n{fields}  return 0xffffffffu;\n}}\n"
        f"uint32_t rqdkm_host_size(const char *name) {{\n{sizes}  return 0;\n}}\n"
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The library, compiled once per process; structs here and there are compared.

    Raises:
        ToolError: it cannot be compiled, or a struct differs from its twin here.
    """
    found = compile_library(sorted((tflm_ops_dir() / "src" / "aras").glob("*.c")), _shim())
    found.rqdkm_host_size.restype = found.rqdkm_host_offset.restype = ctypes.c_uint32
    for name, twin in (("rqdkm_aras_table", CTable), ("rqdkm_aras_port", CPort), ("rqdkm_predictor", CPredictor)):
        if found.rqdkm_host_size(name.encode()) != ctypes.sizeof(twin):
            raise ToolError(f"{name} has another size than its Python twin", where="rqdkm.aras.library")
    pointer, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, arguments in {
        "rqdkm_aras_init": [pointer, pointer, pointer],
        "rqdkm_aras_begin": [pointer, u64, u32],
        "rqdkm_aras_tick": [pointer],
        "rqdkm_aras_end": [pointer],
        "rqdkm_aras_idle": [pointer, u64, u32],
        "rqdkm_aras_rest_begin": [pointer],
        "rqdkm_aras_rest_end": [pointer, u32],
        "rqdkm_aras_request": [pointer, u32],
        "rqdkm_aras_memory": [pointer, u32, u32],
        "rqdkm_aras_morph_state": [pointer, pointer, u32, u32],
        "rqdkm_predictor_init": [pointer, u32, ctypes.c_float],
        "rqdkm_predictor_update": [pointer, ctypes.c_float],
        "rqdkm_predictor_upper": [pointer],
    }.items():
        getattr(found, name).argtypes = arguments
    found.rqdkm_aras_end.restype = ctypes.c_bool
    found.rqdkm_predictor_upper.restype = ctypes.c_float
    return found
