"""The dummy model as firmware (cross-compiled) and as a host process (sanitized)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board import qemu
from rqdkm.board.protocol import BoardClient
from rqdkm.board.stream import ByteStream, ProcessStream
from rqdkm_tvm.sources import tflm_ops_dir

FIXTURES = Path(__file__).parent / "fixtures"
DUMMY = FIXTURES / "dummy"
BIAS = np.array([1, 2, 3, 4], np.int8)
# what the second input asks the dummy model to do
RUN, NULL, UNALIGNED, STACK, DIVIDE, STATUS, HANG = range(7)
WILD, UNDEFINED, INTERRUPT, FAULT_IN_INTERRUPT, JUMP, WAIT_STATES = range(7, 13)
HOST_FLAGS = [
    *("-std=gnu99", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]


def run(*command: str | Path) -> str:
    """Output of a command that must succeed; its messages are the failure's text."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_host(target: Path, *sources: Path, defines: tuple[str, ...] = ()) -> Path:
    """A sanitized host program of ``sources`` and the port library."""
    library = tflm_ops_dir()
    compiler = shutil.which("cc")
    assert compiler, "no C compiler"
    includes = [f"-I{library / 'include'}", f"-I{library / 'src'}", f"-I{DUMMY}"]
    port = [library / "src" / "port" / f"{name}.c" for name in ("frame", "crc32", "paint")]
    run(compiler, *HOST_FLAGS, *includes, *defines, *sources, *port, "-o", target)
    return target


@pytest.fixture(scope="session")
def build_firmware(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Cross-compiles the dummy model with CMake options; the same options are built once."""
    built: dict[tuple[str, ...], Path] = {}

    def build(*options: str) -> Path:
        if options not in built:
            folder = tmp_path_factory.mktemp("firmware")
            run(
                "cmake",
                "-S",
                DUMMY,
                "-B",
                folder,
                f"-DRQDKM_TFLM_OPS_DIR={tflm_ops_dir()}",
                "-DRQDKM_WERROR=ON",
                *options,
            )
            run("cmake", "--build", folder)
            built[options] = folder / "firmware.elf"
        return built[options]

    return build


@pytest.fixture(scope="session")
def firmware(build_firmware: Callable[..., Path]) -> Path:
    """The dummy model with per-layer cycles."""
    return build_firmware("-DRQDKM_PROFILE_LAYERS=ON")


@pytest.fixture(scope="session")
def host_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware's protocol server and the dummy model as a host program under ASan and UBSan."""
    server = tflm_ops_dir() / "src" / "port" / "server.c"
    target = tmp_path_factory.mktemp("host") / "server"
    sources = (FIXTURES / "host_port.c", DUMMY / "rqdkm_model.c", server)
    return compile_host(target, *sources, defines=("-DRQDKM_PROFILE_LAYERS=1",))


@pytest.fixture
def host(host_server: Path) -> Iterator[BoardClient]:
    """A connected session with the host server."""
    client = BoardClient(ProcessStream([host_server]), where="host", run_timeout_s=2.0)
    client.connect()
    yield client
    client.close()


def start_board(board: str, elf: Path, *arguments: str) -> ByteStream:
    """``elf`` on QEMU (over semihosting or USART1) or on the virtual board."""
    if board == "virtual":
        from rqdkm.board import virtual

        return ProcessStream([virtual.ensure_built(), *arguments, elf], name="virtual board")
    return qemu.start(elf, timeout_s=120, semihosting=board == "qemu")


def sample(seed: int, mode: int = RUN) -> list[np.ndarray]:
    """Inputs of the dummy model: a random image and the mode."""
    image = np.random.default_rng(seed).integers(-128, 128, (1, 2, 25, 32), dtype=np.int8)
    return [image, np.array([mode], np.int8)]


def expected(inputs: list[np.ndarray]) -> np.ndarray:
    """What the dummy model answers: each byte plus 1, 2, 3 or 4, modulo 256."""
    return (inputs[0].reshape(-1, 4) + BIAS).astype(np.int8).reshape(inputs[0].shape)
