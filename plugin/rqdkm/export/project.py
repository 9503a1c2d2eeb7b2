"""A self-contained firmware project: plain CMake, a cross compiler, nothing of this repository."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.export import library, metadata, model_c
from rqdkm_tvm.aot import MODULE
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.errors import BudgetError, RqdkmError, ToolError
from rqdkm_tvm.files import staged_directory
from rqdkm_tvm.graph import identifier
from rqdkm_tvm.sources import tflm_ops_dir

_log = logging.getLogger(__name__)
TEMPLATES = Path(__file__).parent / "templates"
BUILD_TIMEOUT_S = 600
_JOBS = "2"


@dataclass(frozen=True)
class Project:
    """A written project."""

    path: Path
    name: str
    model_id: int

    @property
    def metadata(self) -> Path:
        return self.path / "metadata.json"


def boards() -> list[str]:
    """Names of the boards there is support for."""
    return sorted(p.name for p in (tflm_ops_dir() / "boards").iterdir() if (p / "board.cmake").is_file())


def write_project(
    compiled: CompiledModel,
    out_dir: Path | str,
    *,
    name: str,
    board: str = "stm32f407",
    policy: PolicyFile | None = None,
    force: bool = False,
) -> Project:
    """Write the project directory as a whole; nothing is left behind when it fails.

    Args:
        compiled: result of :func:`rqdkm_tvm.compile_model`.
        out_dir: created; an older project of ours there is replaced.
        name: model name in the firmware.
        board: one of :func:`boards`.
        policy: by which the firmware selects a kernel before every frame.
        force: replace ``out_dir`` whoever wrote it.

    Raises:
        RqdkmError: ``out_dir`` exists and is not ours, the board is unknown, or the disk refuses.
    """
    out = Path(out_dir)
    if board not in boards():
        raise RqdkmError(f'no board "{board}"', where="board", hint=f"available: {', '.join(boards())}")
    content = metadata.metadata(compiled, name, board)
    model_id = metadata.identify(content)
    with staged_directory(out, replace=force) as stage:
        populate(compiled, stage, name=name, board=board)
        if policy is not None:
            add_policy(stage, policy)
        (stage / "metadata.json").write_text(metadata.to_json(content, model_id))
        (stage / "plan.json").write_text(compiled.plan.to_json())
    return Project(out, name, model_id)


def populate(compiled: CompiledModel, out: Path, *, name: str, board: str) -> None:
    """Fill the existing directory ``out`` with sources (everything but the JSON files)."""
    model = out / "model"
    model.mkdir()
    model_id = metadata.identify(metadata.metadata(compiled, name, board))
    for file, text in compiled.aot.sources.items():
        (model / file).write_text(text)
    (model / f"tvmgen_{MODULE}.h").write_text(compiled.aot.header)
    (model / "layers.c").write_text(compiled.layers_source)
    (model / "rqdkm_model.h").write_text(model_c.HEADER)
    (model / "rqdkm_model.c").write_text(model_c.source(compiled, name, model_id))
    if compiled.fetched:
        (model / "frame.c").write_text(model_c.frame_source(compiled))
    shutil.copytree(TEMPLATES / "tvm", model / "tvm")
    shutil.copytree(TEMPLATES / "host", out / "host")

    root = tflm_ops_dir()
    texts = [compiled.layers_source, *([model_c.frame_source(compiled)] if compiled.fetched else [])]
    kernels = library.kernel_sources(root, texts)
    shutil.copytree(root / "include", out / "tflm_ops" / "include")
    shutil.copytree(root / "src" / "port", out / "tflm_ops" / "src" / "port")
    headers = [path.relative_to(root) for path in (root / "src" / "kernels").glob("*.h")]
    for source in [*kernels, *headers]:
        target = out / "tflm_ops" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source, target)
    shutil.copytree(root / "boards" / board, out / "board")

    sources = [f"model/{p.name}" for p in sorted(model.glob("*.c"))] + [f"tflm_ops/{k.as_posix()}" for k in kernels]
    cmake = (TEMPLATES / "CMakeLists.txt").read_text()
    listed = "\n".join(f"    {source}" for source in sources)
    for key, value in {"@NAME@": identifier(name), "@SOURCES@": listed, "@BOARD@": board}.items():
        cmake = cmake.replace(key, value)
    (out / "CMakeLists.txt").write_text(cmake)


def add_policy(project_dir: Path, policy: PolicyFile) -> None:
    """Give a written project the policy by which its firmware selects a kernel before every frame."""
    (project_dir / "model" / "policy.c").write_text(model_c.policy_source(policy))
    morph = Path("src") / "morph"
    shutil.copytree(tflm_ops_dir() / morph, project_dir / "tflm_ops" / morph, dirs_exist_ok=True)
    cmake = project_dir / "CMakeLists.txt"
    cmake.write_text(cmake.read_text().replace("set(RQDKM_DISPATCH OFF)", "set(RQDKM_DISPATCH ON)"))


def build(
    project_dir: Path | str,
    *,
    profile_layers: bool = False,
    io: str = "auto",
    kernel: int | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Path:
    """Cross-compile a project.

    Args:
        project_dir: what :func:`write_project` wrote.
        profile_layers: count the cycles of every layer.
        io: byte stream of the I/O protocol: ``usart``, ``semihosting`` or ``auto`` (the host may choose).
        kernel: that morphing layers run until the application selects one; None: the safe one.

    Returns:
        The ELF file, inside ``project_dir/build*``.

    Raises:
        ToolError: CMake or the compiler is missing, or failed (with its first error lines).
        BudgetError: the image does not fit the chip.
    """
    project = Path(project_dir)
    folder = project / (("build-profile" if profile_layers else "build") + ("" if kernel is None else f"-{kernel}"))
    options = [f"-DRQDKM_IO={io}", f"-DRQDKM_PROFILE_LAYERS={'ON' if profile_layers else 'OFF'}"]
    options += [] if kernel is None else [f"-DRQDKM_KERNEL={kernel}"]
    progress("compiling the firmware")
    cmake_build(project, folder, options)
    return folder / "firmware.elf"


def require_tools() -> None:
    """Check the tools of a cross build before the long work in front of it.

    Raises:
        ToolError: CMake or the cross compiler is missing.
    """
    for tool, package in (("cmake", "cmake"), ("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi")):
        inside = Path(os.environ.get("RQDKM_TOOLCHAIN_DIR", "/nonexistent")) / tool
        if shutil.which(tool) is None and not inside.is_file():
            raise ToolError(f"{tool} is not installed", hint=f"Debian: apt install {package}; rqdkm doctor checks all")


def cmake_build(project: Path, folder: Path, options: list[str]) -> None:
    """Configure and build ``project`` in ``folder``."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise ToolError("cmake is not installed", hint="Debian: apt install cmake ninja-build")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    _run(
        [cmake, "-S", str(project), "-B", str(folder), *generator, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options],
        "cmake",
    )
    _run([cmake, "--build", str(folder), "--parallel", _JOBS], "the C compiler")


def _run(command: list[str], tool: str) -> None:
    _log.debug("%s", " ".join(command))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{tool} did not finish within {BUILD_TIMEOUT_S} s", where=command[0]) from error
    except OSError as error:
        raise ToolError(f"{tool} cannot be started: {error.strerror}", where=command[0]) from error
    if done.returncode == 0:
        return
    output = done.stdout + done.stderr
    _log.debug("%s", output)
    overflow = re.search(r"region [`'](\w+)' overflowed by (\d+) bytes", output)
    if overflow:
        raise BudgetError(
            f"the image does not fit: {overflow[1]} overflows by {int(overflow[2]):,} bytes",
            where="linker",
            hint="set a RAM or flash budget so that kernels take less, or use a smaller model",
        )
    raise ToolError(f"{tool} failed:\n{_first_errors(output)}", where=" ".join(command[:1]))


def _first_errors(output: str, lines: int = 8) -> str:
    """The first lines that say what is wrong, or the last ones when none does."""
    all_lines = [line for line in output.splitlines() if line.strip()]
    marked = [
        i for i, line in enumerate(all_lines) if re.search(r"error|undefined reference|CMake Error|fatal", line, re.I)
    ]
    chosen = all_lines[marked[0] : marked[0] + lines] if marked else all_lines[-lines:]
    return "\n".join(f"    {line}" for line in chosen)
