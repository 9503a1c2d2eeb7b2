"""The virtual STM32F407: builds the program in ``plugin/vboard`` on first use and starts it as a byte stream.

The program is GPL (it links Unicorn) and therefore a separate process; only its command line and pipes are used here.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rqdkm.board.stream import ByteStream, ProcessStream
from rqdkm.sources import cache_dir, vboard_dir
from rqdkm_tvm.errors import ToolError

log = logging.getLogger(__name__)

FlashModel = Literal["f407", "l4r5", "none"]

PROGRAM = "rqdkm-vboard"
EXIT_USAGE, EXIT_LOCKUP, EXIT_CLOCK, EXIT_LIMIT = 121, 122, 123, 124
CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_BUILD_TIMEOUT_S = 300.0


def ensure_built(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """Path of the virtual board program, compiled if its sources, the compiler or Unicorn changed.

    Safe to call from many processes at once: one builds, the others wait. The program appears by renaming, so nobody
    ever sees half of it.

    Raises:
        ToolError: no C compiler, no ``unicorn`` package, or compilation failed.
    """
    sources = sorted((vboard_dir() / "src").glob("*.[ch]"))
    if not any(source.suffix == ".c" for source in sources):
        raise ToolError("the sources of the virtual board are missing", where=str(vboard_dir()))
    compiler = _compiler()
    include, library = _unicorn()
    folder = cache_dir() / "vboard"
    program = folder / f"{PROGRAM}-{_fingerprint(sources, compiler, library)}"
    if program.is_file():
        return program
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "build.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.is_file():
                progress("building the virtual board")
                _compile(compiler, sources, include, library, program)
    except OSError as error:
        raise ToolError(
            f"cannot write the virtual board program: {error.strerror}",
            where=str(folder),
            hint="set RQDKM_CACHE to a folder you may write to",
        ) from error
    return program


def start(
    elf: Path,
    *,
    flash_model: str = "f407",
    stats: Path | None = None,
    profile: Path | None = None,
    folded: Path | None = None,
    max_cycles: int | None = None,
    timeout_s: float | None = None,
    strict_clock: bool = False,
    functional: bool = False,
    extra: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda _line: None,
) -> ByteStream:
    """Start ``elf``; USART1 and USART2 are the stream. What the program says itself is in ``close().messages``.

    Args:
        elf: firmware image.
        flash_model: ``f407``, ``l4r5`` or ``none``.
        stats: file for statistics (JSON), written when the program ends.
        profile: file for cycles per function (JSON).
        folded: file for cycles per call path (flame graph input).
        max_cycles: limit of running cycles; the program then ends with code 124.
        timeout_s: limit of wall time; the program then ends with code 124.
        strict_clock: end with code 123 at the first broken clock rule.
        functional: no timing, about five times faster.
        extra: further options of the program.

    Raises:
        ToolError: the program cannot be built or started.
    """
    command: list[str | Path] = [ensure_built(progress=progress), "--flash-model", flash_model]
    for option, value in (
        ("--stats", stats),
        ("--profile", profile),
        ("--folded", folded),
        ("--max-cycles", max_cycles),
        ("--timeout", timeout_s),
    ):
        if value is not None:
            command += [option, str(value)]
    if strict_clock:
        command.append("--strict-clock")
    if functional:
        command.append("--functional")
    return ProcessStream([*command, *extra, elf], name="virtual board")


def _compiler() -> str:
    wanted = os.environ.get("CC") or "cc"
    found = shutil.which(wanted) or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        raise ToolError(
            f"no C compiler ('{wanted}'): the virtual board is compiled on first use",
            hint="install one, on Debian: apt-get install gcc libc6-dev",
        )
    return found


def _unicorn() -> tuple[Path, Path]:
    """Include folder and shared library of the ``unicorn`` wheel; the package itself is not imported."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise ToolError("the Python package 'unicorn' is missing", hint="pip install unicorn==2.1.4")
    package = Path(spec.origin).parent
    include = package / "include"
    libraries = sorted((package / "lib").glob("libunicorn.so*"))
    if not (include / "unicorn" / "unicorn.h").is_file() or not libraries:
        raise ToolError(
            "the Python package 'unicorn' has no C headers or library",
            where=str(package),
            hint="pip install --force-reinstall unicorn==2.1.4",
        )
    return include, libraries[0]


def _fingerprint(sources: list[Path], compiler: str, library: Path) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    status = library.stat()
    digest.update(f"{CFLAGS} {compiler} {library} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _compile(compiler: str, sources: list[Path], include: Path, library: Path, program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent, prefix="build-") as work:
        built = Path(work) / PROGRAM
        command = [compiler, *CFLAGS, f"-I{include}", "-o", str(built)]
        command += [str(source) for source in sources if source.suffix == ".c"]
        command += [str(library), f"-Wl,-rpath,{library.parent}", "-lm"]
        log.debug("build %s", " ".join(command))
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ToolError("compiling the virtual board takes too long", where=compiler) from error
        if result.returncode != 0:
            raise ToolError(
                "the virtual board does not compile",
                where=compiler,
                hint=(result.stderr.strip() or result.stdout.strip())[-1500:],
            )
        built.replace(program)


def main() -> int:
    """``python -m rqdkm.board.virtual``: build the program now rather than at first use."""
    try:
        ensure_built()
    except ToolError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
