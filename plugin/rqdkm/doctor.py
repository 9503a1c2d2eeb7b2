"""Is everything here that a deployment needs? Each check says how to get what is missing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from rqdkm.sources import cache_dir, vboard_dir
from rqdkm_tvm.errors import RqdkmError

State = Literal["ok", "missing", "too old", "failed"]

_TIMEOUT_S = 60
_PYTHON = ((3, 10), (3, 12))
_MIN_GCC = (10, 0)
_MIN_CMAKE = (3, 16)
_MIN_QEMU = (7, 0)
_MIN_FREE_DISK = 1 << 30
_MIN_FREE_RAM = 2 << 30
_APT = "apt-get install -y"


@dataclass(frozen=True)
class Check:
    """One line: ``needed`` for ``rqdkm deploy --board virtual``, or only for what ``purpose`` says."""

    name: str
    state: State
    detail: str
    needed: bool
    fix: str = ""
    purpose: str = ""


def examine(progress: Callable[[str], None] = lambda _: None) -> list[Check]:
    """Run every check; none of them changes anything on the machine."""
    found = []
    for name, check in _CHECKS:
        progress(f"checking: {name}")
        found.append(check())
    return found


def boards() -> list[Check]:
    """Which boards this machine can use."""
    virtual = virtual_board()
    serial = openocd()
    return [
        dataclasses.replace(virtual, name="virtual", needed=False),
        dataclasses.replace(qemu(), name="qemu"),
        dataclasses.replace(serial, name="openocd"),
    ]


def ready(checks: list[Check]) -> bool:
    """True if a deployment to the virtual board can work."""
    return all(check.state == "ok" for check in checks if check.needed)


def to_json(checks: list[Check]) -> str:
    body = {"ready": ready(checks), "checks": [dataclasses.asdict(check) for check in checks]}
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def render(checks: list[Check]) -> Table:
    """One line per check; a second one with the command that repairs it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("check", "state", "found"):
        table.add_column(name, overflow="fold")
    for check in checks:
        ok = check.state == "ok"
        label = check.state if ok or check.needed else f"{check.state} (optional)"
        style = "green" if ok else "bold red" if check.needed else "yellow"
        detail = Text(check.detail)
        if not ok and check.purpose:
            detail.append(f"; needed for {check.purpose}", style="dim")
        if not ok and check.fix:
            detail.append(f"\n  -> {check.fix}", style="cyan")
        table.add_row(check.name, Text(label, style=style), detail)
    return table


def python() -> Check:
    low, high = _PYTHON
    text = platform.python_version()
    fine = low <= sys.version_info[:2] <= high
    fix = f"create the environment with Python {low[0]}.{low[1]} to {high[0]}.{high[1]}"
    return Check("python", "ok" if fine else "too old" if sys.version_info[:2] < low else "failed", text, True, fix)


def tvm() -> Check:
    """A TVM that still has Relay, which PyPI's ``apache-tvm`` has not."""
    pins = " ".join(f"'{pin}'" for pin in _requirements("xtc-"))
    install = f"{sys.executable} -m pip install {pins}"
    if importlib.util.find_spec("tvm") is None:
        return Check("tvm with Relay", "missing", "no tvm package", True, install)
    code = (
        "import importlib.util as u, tvm; print(tvm.__version__);"
        "print(u.find_spec('tvm.relay') is not None); print(tvm.__file__);"
        "print(tvm.runtime.enabled('llvm') if hasattr(tvm.runtime, 'enabled') else False);"
        "print(tvm.get_global_func('target.build.c', True) is not None)"
    )
    ran, text = _run([sys.executable, "-c", code], {"TOPHUB_LOCATION": "NONE"})
    lines = text.splitlines()
    if not ran or len(lines) < 5:
        return Check("tvm with Relay", "failed", f"import tvm fails: {_last(text)}", True, install)
    version, relay, where, llvm, c = lines[-5:]
    if relay != "True":
        detail = f"TVM {version} in {Path(where).parent} has no Relay: it was removed after 0.19"
        return Check("tvm with Relay", "failed", detail, True, f"pip uninstall -y apache-tvm && {install}")
    if c != "True":
        return Check("tvm with Relay", "failed", f"TVM {version} was built without the C target", True, install)
    return Check("tvm with Relay", "ok", f"{version}, C target, LLVM {'yes' if llvm == 'True' else 'no'}", True)


def arm_gcc() -> Check:
    fix = f"{_APT} gcc-arm-none-eabi libnewlib-arm-none-eabi"
    found = _tool("arm-none-eabi-gcc", ["-dumpfullversion"], _MIN_GCC, True, fix)
    if found.state != "ok":
        return found
    options = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-print-file-name=libc.a"]
    _, path = _run(["arm-none-eabi-gcc", *options])
    if not Path(path.strip()).is_absolute():  # GCC repeats the bare name of a library that it does not have
        return dataclasses.replace(found, state="missing", detail=f"{found.detail}, but no newlib for it", fix=fix)
    return dataclasses.replace(found, detail=f"{found.detail} with newlib")


def cmake() -> Check:
    return _tool("cmake", ["--version"], _MIN_CMAKE, True, f"{_APT} cmake")


def ninja_or_make() -> Check:
    for name in ("ninja", "make"):
        if shutil.which(name):
            return _tool(name, ["--version"], (0,), True, "")
    return Check("ninja or make", "missing", "neither is in PATH", True, f"{_APT} ninja-build")


def host_cc() -> Check:
    name = os.environ.get("CC", "cc").split()[0]
    return _tool(name, ["-dumpversion"], (0,), True, f"{_APT} gcc libc6-dev", label="host C compiler")


def unicorn() -> Check:
    pin = "".join(_requirements("unicorn")) or "unicorn"
    return _package("unicorn", True, f"{sys.executable} -m pip install '{pin}'", "the virtual board")


def virtual_board() -> Check:
    """Sources there, and the program built or buildable."""
    name = "virtual board"
    try:
        sources = vboard_dir()
    except RqdkmError as error:
        return Check(name, "missing", error.what, True, error.hint)
    if not any(sources.rglob("*.c")):
        return Check(name, "missing", f"no C sources in {sources}", True, "reinstall rqdkm")
    blocked = [check for check in (host_cc(), unicorn()) if check.state != "ok"]
    if blocked:
        return Check(name, "failed", f"cannot be built: {blocked[0].name} is {blocked[0].state}", True, blocked[0].fix)
    built = sorted(p for p in cache_dir().rglob("rqdkm-vboard*") if p.is_file() and os.access(p, os.X_OK))
    return Check(name, "ok", "built" if built else "not built yet, the first deployment does it", True)


def tflite() -> Check:
    return _package("tflite", True, f"{sys.executable} -m pip install tflite")


def tflite_micro() -> Check:
    pin = "".join(_requirements("tflite-micro")) or "tflite-micro"
    return _package("tflite-micro", True, f"{sys.executable} -m pip install '{pin}'", "the exactness reference")


def qemu() -> Check:
    found = _tool("qemu-system-arm", ["--version"], _MIN_QEMU, False, f"{_APT} qemu-system-arm", "--board qemu")
    if found.state == "ok" and "netduinoplus2" not in _run(["qemu-system-arm", "-machine", "help"])[1]:
        return dataclasses.replace(found, state="failed", detail=f"{found.detail}, without machine netduinoplus2")
    return found


def openocd() -> Check:
    return _tool("openocd", ["--version"], (0, 11), False, f"{_APT} openocd", "--board openocd and rqdkm flash")


def serial() -> Check:
    return _package("pyserial", False, f"{sys.executable} -m pip install pyserial", "--board openocd")


def disk() -> Check:
    free = shutil.disk_usage(_existing(Path.cwd())).free
    detail = f"{free / (1 << 30):.1f} GiB free here"
    return Check("disk space", "ok" if free >= _MIN_FREE_DISK else "failed", detail, True, "free 1 GiB of disk")


def memory() -> Check:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return Check("memory", "ok", "not known on this system", False)
    detail = f"{free / (1 << 30):.1f} GiB available"
    return Check("memory", "ok" if free >= _MIN_FREE_RAM else "failed", detail, False, "close something", "big models")


def cache() -> Check:
    folder = cache_dir()
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        fix = "make it writable, or set RQDKM_CACHE to another directory"
        return Check("cache", "failed", f"{folder}: {error.strerror}", True, fix)
    return Check("cache", "ok", f"{folder}", True)


_CHECKS: tuple[tuple[str, Callable[[], Check]], ...] = (
    ("python", python),
    ("tvm", tvm),
    ("tflite", tflite),
    ("tflite-micro", tflite_micro),
    ("arm-none-eabi-gcc", arm_gcc),
    ("cmake", cmake),
    ("ninja or make", ninja_or_make),
    ("host C compiler", host_cc),
    ("unicorn", unicorn),
    ("virtual board", virtual_board),
    ("qemu", qemu),
    ("openocd", openocd),
    ("pyserial", serial),
    ("disk", disk),
    ("memory", memory),
    ("cache", cache),
)


def _tool(
    program: str, arguments: list[str], minimum: tuple[int, ...], needed: bool, fix: str, purpose: str = "",
    *, label: str = "",
) -> Check:  # fmt: skip
    """A program in PATH that answers with a version of at least ``minimum``."""
    name = label or program
    if shutil.which(program) is None:
        return Check(name, "missing", f"{program} is not in PATH", needed, fix, purpose)
    ran, text = _run([program, *arguments])
    match = re.search(r"\d+(?:\.\d+)*", text)
    if not ran or match is None:
        return Check(name, "failed", f"{program} does not run: {_last(text)}", needed, fix, purpose)
    version = match[0]
    if tuple(map(int, version.split("."))) < minimum:
        wanted = ".".join(map(str, minimum))
        return Check(name, "too old", f"{version}, at least {wanted} is needed", needed, fix, purpose)
    return Check(name, "ok", version, needed, "", purpose)


def _package(name: str, needed: bool, fix: str, purpose: str = "") -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name), needed, "", purpose)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed in this Python environment", needed, fix, purpose)


def _requirements(prefix: str) -> list[str]:
    """What our own package metadata asks for, e.g. ``tflite==2.18.0``, by the start of the name."""
    try:
        wanted = importlib.metadata.requires("rqdkm") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [line.split(";")[0].strip() for line in wanted if line.startswith(prefix)]


def _run(command: list[str], environment: dict[str, str] | None = None) -> tuple[bool, str]:
    """(ended well, stdout and stderr)."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout + (done.stderr if not done.stdout.strip() or done.returncode else "")


def _existing(path: Path) -> Path:
    """``path`` or its closest parent that exists."""
    return next(p for p in (path, *path.resolve().parents) if p.exists())


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "no output"
