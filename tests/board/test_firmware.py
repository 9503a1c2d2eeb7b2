"""The firmware on emulators: outputs, clocks, cycles, memory figures, and what it says when the model crashes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board import qemu
from rqdkm.board.framing import Frame, encode
from rqdkm.board.protocol import BoardClient, ClockSource, FaultError, Message
from rqdkm.board.run import RunOptions, run_samples
from rqdkm.board.stream import ProcessStream
from rqdkm_tvm.errors import BoardError
from tests.board import conftest
from tests.board.conftest import DUMMY, expected, run, sample, start_board

BOARDS = ["qemu", "qemu-usart", "virtual"]


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(board: str, elf: Path, *arguments: str) -> BoardClient:
    client = BoardClient(start_board(board, elf, *arguments), elf=elf, where=board, run_timeout_s=30)
    client.connect(ready_timeout_s=30)
    return client


def test_outputs_are_the_models_on_every_board(firmware: Path, board: str) -> None:
    client = connect(board, firmware)
    for number in range(1, 4):
        inputs = sample(number)
        result = client.infer(inputs)
        np.testing.assert_array_equal(result.outputs[0], expected(inputs))
        assert result.outputs[1][0] == number
    assert client.exit(17).code == 17


def test_it_says_which_flags_built_it(firmware: Path) -> None:
    client = connect("qemu", firmware)
    assert "-mcpu=cortex-m4" in client.info.flags and " -O2 " in client.info.flags
    assert client.info.board == "stm32f407" and client.info.compiler
    client.exit()


def test_qemu_cannot_count_cycles_and_the_firmware_knows(firmware: Path) -> None:
    result = run_samples(firmware, "qemu", [sample(1)])
    assert result.cycles is None and result.layer_cycles is None
    assert result.info.clock_source == ClockSource.INTERNAL and result.clock_hz == 16_000_000  # its RCC is never ready


def test_memory_figures_are_the_linkers_and_the_paints(firmware: Path, board: str) -> None:
    client = connect(board, firmware)
    client.infer(sample(1))
    memory = client.memory()
    client.exit()
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in run("arm-none-eabi-nm", firmware).splitlines()}
    assert memory.stack == symbols["_stack_top"] - symbols["_stack_bottom"] == 4096
    assert symbols["_stack_bottom"] == 0x20000000
    assert 64 < memory.stack_used < 1024
    assert (memory.arena, memory.arena_used) == (8192, 2048 + 1600)
    assert memory.workspace == 8192
    assert memory.weights == 4
    image = firmware.parent / "image.bin"
    run("arm-none-eabi-objcopy", "-O", "binary", firmware, image)
    assert memory.flash == image.stat().st_size == memory.code + memory.weights


CRASHES = [
    (conftest.UNALIGNED, "unaligned access (UNALIGNED); at misbehave"),
    (conftest.WILD, "address 0x60000000; at write_wild"),
    (conftest.UNDEFINED, "undefined instruction (UNDEFINSTR); at misbehave"),
    (conftest.DIVIDE, "division by zero (DIVBYZERO); at misbehave"),
    (conftest.INTERRUPT, "interrupt 28, which nobody handles"),
    (conftest.FAULT_IN_INTERRUPT, "address 0x60000000; at write_wild"),
    (conftest.JUMP, "jump to an address without the Thumb bit (INVSTATE); at write_wild"),
    (conftest.STACK, "stack overflow; likely called from dummy_recurse"),
    (conftest.NULL, "address 0x00000000 (a null pointer); at dummy_null"),
]


@pytest.mark.parametrize(("mode", "words"), CRASHES, ids=[words.split(" (")[0] for _, words in CRASHES])
def test_crashes_are_reported_with_cause_and_place(firmware: Path, board: str, mode: int, words: str) -> None:
    client = connect(board, firmware)
    client.infer(sample(1))
    with pytest.raises(FaultError) as caught:
        client.infer(sample(2, mode))
    assert words in caught.value.what
    exception = 16 + 28 if mode == conftest.INTERRUPT else 3
    assert f"rqdkm fault: exception={exception:08x}" in client.text
    assert client.close().code == 98


def test_a_stack_overflow_says_what_to_do(firmware: Path) -> None:
    with pytest.raises(FaultError) as caught:
        run_samples(firmware, "qemu", [sample(1, conftest.STACK)])
    assert "RQDKM_STACK_BYTES" in caught.value.hint


def test_a_hanging_model_ends_the_session_in_bounded_time(firmware: Path, board: str) -> None:
    client = BoardClient(start_board(board, firmware), where=board, timeout_s=1.0, run_timeout_s=1.0)
    client.connect(ready_timeout_s=30)
    with pytest.raises(BoardError, match="no good answer to RUN"):
        client.infer(sample(1, conftest.HANG))
    client.close()


def test_without_a_debugger_breakpoints_are_skipped_and_the_board_restarts(firmware: Path) -> None:
    """QEMU without semihosting takes a hard fault at the breakpoint, as silicon does."""
    machine = ["qemu-system-arm", "-M", qemu.MACHINE, "-display", "none", "-monitor", "none", "-serial", "stdio"]
    stream = ProcessStream(["timeout", "-k", "1", "60", *machine, "-kernel", firmware], grace_s=0.2)
    client = BoardClient(stream, elf=firmware)
    client.connect(ready_timeout_s=30)
    assert client.infer(sample(1)).outputs[1][0] == 1
    assert client.infer(sample(2)).outputs[1][0] == 2
    stream.write(encode(Frame(Message.EXIT, 200, bytes(4))))
    client.connect(ready_timeout_s=30)
    assert client.infer(sample(3)).outputs[1][0] == 1  # started anew
    with pytest.raises(FaultError, match="0x60000000"):
        client.infer(sample(4, conftest.WILD))
    assert stream.read(1, 0.5) == b""  # and waits, instead of crashing again
    client.close()


# --- the virtual board: clocks and cycles ---


@pytest.mark.parametrize(
    ("arguments", "source", "hertz"),
    [
        ([], ClockSource.CRYSTAL_PLL, 168_000_000),
        (["--hse-dead"], ClockSource.INTERNAL_PLL, 168_000_000),
        (["--pll-dead"], ClockSource.INTERNAL, 16_000_000),
        (["--hse-dead", "--pll-dead"], ClockSource.INTERNAL, 16_000_000),
    ],
)
def test_the_clock_falls_back_without_breaking_a_rule(
    firmware: Path, arguments: list[str], source: ClockSource, hertz: int
) -> None:
    client = connect("virtual", firmware, "--strict-clock", *arguments)
    inputs = sample(1)
    np.testing.assert_array_equal(client.infer(inputs).outputs[0], expected(inputs))
    assert (client.info.clock_source, client.info.clock_hz) == (source, hertz)
    assert client.exit(5).code == 5  # 123 would be a clock violation


def test_a_broken_clock_rule_is_named(firmware: Path) -> None:
    result = run_samples(firmware, "virtual", [sample(1, conftest.WAIT_STATES)])
    assert len(result.violations) == 1
    assert "wait state" in result.violations[0]


def test_cycles_are_those_of_the_loop(firmware: Path) -> None:
    result = run_samples(firmware, "virtual", [sample(number) for number in range(3)])
    assert result.violations == []
    assert result.cycles is not None and result.layer_cycles is not None
    # 10000 times SUBS and a taken BNE: 1 + (1 + 1 to 3 of pipeline refill)
    assert 20_000 <= result.layer_cycles[1] <= 40_100
    assert all(sum(result.layer_cycles) <= cycles <= sum(result.layer_cycles) + 2000 for cycles in result.cycles)
    assert result.clock_hz == 168_000_000


def test_semihosting_serves_the_virtual_board_too(build_firmware: Callable[..., Path]) -> None:
    client = connect("virtual", build_firmware("-DRQDKM_IO=semihosting"))
    inputs = sample(4)
    np.testing.assert_array_equal(client.infer(inputs).outputs[0], expected(inputs))
    assert client.exit(3).code == 3


# --- builds ---


def test_a_usart_only_build_runs_on_qemu(build_firmware: Callable[..., Path]) -> None:
    result = run_samples(build_firmware("-DRQDKM_IO=usart"), "qemu", [sample(1)], RunOptions(io="usart"))
    np.testing.assert_array_equal(result.outputs[0][0], expected(sample(1)))


def test_plain_cmake_builds_a_project_that_holds_copies(tmp_path: Path) -> None:
    project = tmp_path / "my project"
    shutil.copytree(conftest.tflm_ops_dir(), project / "tflm_ops", ignore=shutil.ignore_patterns("boards"))
    shutil.copytree(conftest.tflm_ops_dir() / "boards" / "stm32f407", project / "board")
    for name in ("rqdkm_model.h", "rqdkm_model.c"):
        shutil.copy(DUMMY / name, project)
    (project / "CMakeLists.txt").write_text(PROJECT)
    run("cmake", "-S", project, "-B", project / "build")
    run("cmake", "--build", project / "build")
    result = run_samples(project / "build" / "firmware.elf", "qemu", [sample(1)])
    np.testing.assert_array_equal(result.outputs[0][0], expected(sample(1)))


PROJECT = """
cmake_minimum_required(VERSION 3.20)
if(NOT CMAKE_TOOLCHAIN_FILE)
  set(CMAKE_TOOLCHAIN_FILE ${CMAKE_CURRENT_SOURCE_DIR}/board/toolchain.cmake)
endif()
project(my_model C)
include(board/board.cmake)
rqdkm_add_firmware(firmware)
target_sources(firmware PRIVATE rqdkm_model.c)
target_include_directories(firmware PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
"""


def configure(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    library = conftest.tflm_ops_dir()
    command = ["cmake", "-S", str(DUMMY), "-B", str(tmp_path), f"-DRQDKM_TFLM_OPS_DIR={library}", *options]
    configured = subprocess.run(command, capture_output=True, text=True)
    if configured.returncode:
        return configured
    return subprocess.run(["cmake", "--build", str(tmp_path)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("-DRQDKM_STACK_BYTES=131072", "will not fit in region"),
        ("-DRQDKM_STACK_BYTES=100", "RQDKM_STACK_BYTES must be a multiple of 8"),
        ("-DRQDKM_IO=wifi", "must be usart, semihosting or auto"),
        ("-DRQDKM_HSE_HZ=7000000", "must be a multiple of 2 MHz"),
    ],
)
def test_bad_options_fail_the_build_with_a_reason(tmp_path: Path, option: str, words: str) -> None:
    done = configure(tmp_path, option)
    assert done.returncode != 0
    assert words in " ".join((done.stdout + done.stderr).split())


def test_sections_go_where_they_should(tmp_path: Path) -> None:
    extra = tmp_path / "extra.c"
    extra.write_text(
        '__attribute__((section(".ccm"))) int zeroed[4];\n'
        '__attribute__((section(".ccm_data"))) int initialised[2] = {11, 22};\n'
        '__attribute__((section(".ramfunc"), noinline))\n'
        "int in_ram(int x) { return x + zeroed[x & 3] + initialised[0]; }\n"
        '__attribute__((section(".weights"))) const signed char weights[1000] = {1};\n'
        "int use(int x) { return in_ram(x) + weights[x]; }\n"
    )
    project = tmp_path / "project"
    project.mkdir()
    text = PROJECT.replace("board/", f"{conftest.tflm_ops_dir()}/boards/stm32f407/").replace(
        "${CMAKE_CURRENT_SOURCE_DIR}//", "/"
    )
    text = text.replace(
        "rqdkm_model.c)", f"{DUMMY}/rqdkm_model.c {extra})\ntarget_link_options(firmware PRIVATE -Wl,-u,use)"
    )
    text = text.replace("PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})", f"PRIVATE {DUMMY})")
    (project / "CMakeLists.txt").write_text(text)
    run("cmake", "-S", project, "-B", project / "build")
    run("cmake", "--build", project / "build")
    elf = project / "build" / "firmware.elf"
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in run("arm-none-eabi-nm", elf).splitlines()}
    assert 0x10000000 <= symbols["zeroed"] < 0x10010000 and 0x10000000 <= symbols["initialised"] < 0x10010000
    assert 0x20000000 <= symbols["in_ram"] < 0x20020000
    assert symbols["_weights_end"] - symbols["_weights_start"] >= 1000
    image = tmp_path / "image.bin"
    run("arm-none-eabi-objcopy", "-O", "binary", elf, image)
    assert image.stat().st_size == symbols["_flash_end"] - symbols["_flash_start"]
    client = connect("virtual", elf)
    inputs = sample(1)
    np.testing.assert_array_equal(client.infer(inputs).outputs[0], expected(inputs))
    client.exit()
