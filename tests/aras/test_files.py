"""Traces, currents, workloads and the exported table: what is written is what is read, and what is wrong is said."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from rqdkm.aras import energy, table, traces
from rqdkm.board.describe import STM32F407
from rqdkm_tvm.errors import DataError, RqdkmError
from rqdkm_tvm.sources import tflm_ops_dir
from tests.aras.boards import CYCLES, WORKLOAD, built

FREERTOS = """\
#include <stddef.h>
#include <stdint.h>
/* the little of the FreeRTOS API that the adapter uses, as its reference manual declares it */
typedef struct tskTaskControlBlock *TaskHandle_t;
typedef unsigned long UBaseType_t;
void vTaskPrioritySet(TaskHandle_t xTask, UBaseType_t uxNewPriority);
#include "rqdkm/aras_freertos.h"
"""


@pytest.mark.parametrize("kind", traces.KINDS)
def test_traces_are_seeded_and_survive_their_file(kind: str, tmp_path: Path) -> None:
    one, same, other = (traces.make(kind, seed, frames=40, cycles=CYCLES) for seed in (1, 1, 2))
    assert one == same != other
    assert sum(a.frame for a in one) >= 40
    assert list(one) == sorted(one, key=lambda a: a.time_us)
    traces.write(one, tmp_path / "t.csv")
    assert traces.read(tmp_path / "t.csv") == one


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5,picture,1,1,0,0,0", 'kind is frame or rest, not "picture"'),
        ("x,frame,1,1,0,0,0", 'time_us is a whole number from 0 to 10000000000000, not "x"'),
        ("5,frame,0,1,0,0,0", "cycles is a whole number"),
        ("5,frame,1,-4,0,0,0", "limit_us is a whole number"),
        ("5,rest,1,1,4,0,0", "level is a whole number from 0 to 3"),
        ("5,frame,1,1,0,2,0", "timed is a whole number from 0 to 1"),
        ("5,frame,1,1,0", "timed is a whole number"),
        ("5,frame,1.5,1,0,0,0", "cycles is a whole number"),
    ],
)
def test_a_wrong_line_of_a_trace_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",".join(traces.HEADER) + "\n0,frame,5,5,0,1,0\n" + line + "\n")
    with pytest.raises(DataError, match=r"t\.csv:3") as caught:
        traces.read(path)
    assert message in caught.value.what


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line"),
        ("time,kind\n", "the first line"),
        (",".join(traces.HEADER) + "\n", "no frame"),
        (",".join(traces.HEADER) + "\n5,frame,1,1,0,0,0\n4,frame,1,1,0,0,0\n", "goes back"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        traces.read(path)
    with pytest.raises(DataError, match="cannot read"):
        traces.read(tmp_path / "none.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        traces.read(path)


def test_the_currents_are_those_of_the_board_description() -> None:
    """Two places know the datasheet: they agree, and rows that it does not have are between their neighbours."""
    found = energy.read()
    for mhz, ma in STM32F407.run_ma.items():
        assert found.run[mhz] == ma and found.sleep[mhz] == STM32F407.sleep_ma[mhz]
    assert found.supply_v == STM32F407.supply_v
    for mhz, (low, high) in {84: (60, 90), 42: (30, 60)}.items():
        share = (mhz - low) / (high - low)
        assert found.run[mhz] == pytest.approx(found.run[low] + share * (found.run[high] - found.run[low]))
        assert found.sleep[mhz] == pytest.approx(found.sleep[low] + share * (found.sleep[high] - found.sleep[low]))
    text = energy.DEFAULT.read_text()
    assert text.count("interpolated") == 4 and "DS8626" in text
    assert found.at(found.run, 100) == pytest.approx(22.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("run,168,40,mA", "run,168,0,mA"), "no number above 0"),
        (("run,168,40,mA", "run,168,nan,mA"), "no number above 0"),
        (("run,168,40,mA", "run,168,40,A"), 'is in mA, not in "A"'),
        (("run,168,40,mA", "walk,168,40,mA"), "no quantity"),
        (("quantity,mhz", "what,mhz"), "the first line"),
        (("stop,,0.31", "sleep,4,0.31"), "no row for stop"),
    ],
)
def test_wrong_currents_are_refused(change: tuple[str, str], message: str) -> None:
    text = energy.DEFAULT.read_text()
    assert change[0] in text
    with pytest.raises(DataError, match=message):
        energy.parse(text.replace(*change, 1), where="currents.csv")


def test_a_workload_is_read_by_name(tmp_path: Path) -> None:
    found = energy.read_workload("machinery")
    assert found.factors[0] == 1.0 and list(found.factors) == sorted(found.factors, reverse=True)
    with pytest.raises(DataError, match='no workload "none"'):
        energy.read_workload("none")
    path = tmp_path / "w.csv"
    path.write_text("name,168,144,120,84,42,16\nmine,5,4,3,2,1,x\n")
    with pytest.raises(DataError, match="no number"):
        energy.read_workload("mine", path)


@pytest.mark.parametrize("bad", [{"share": 0.95}, {"worst": 0.0}, {"tick_us": 0}, {"frame_predictor": "none"}])
def test_a_task_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(RqdkmError):
        built(**bad)


def test_the_exported_table_is_the_one_that_simulations_use(tmp_path: Path) -> None:
    constants = built(share=0.3, crystal=True)
    (tmp_path / "t.c").write_text(table.to_c(constants, "my_table", "test"))
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "rqdkm/aras.h"\nextern const rqdkm_aras_table my_table;\n'
        "int main(void) { return fwrite(&my_table, sizeof my_table, 1, stdout) == 1 ? 0 : 1; }\n"
    )
    program = tmp_path / "dump"
    include = str(tflm_ops_dir() / "include")
    sources = [str(tmp_path / "t.c"), str(tmp_path / "main.c")]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["gcc", *flags, "-I", include, *sources, "-o", str(program)], check=True)
    dumped = subprocess.run([str(program)], check=True, capture_output=True).stdout
    assert dumped == ctypes.string_at(ctypes.addressof(constants), ctypes.sizeof(constants))


@pytest.mark.parametrize("compiler", [["gcc", "-std=c99"], ["g++", "-std=c++17"]])
def test_the_freertos_adapter_compiles_and_sets_priorities_of_the_task(compiler: list[str], tmp_path: Path) -> None:
    source = tmp_path / ("main.c" if compiler[0] == "gcc" else "main.cc")
    source.write_text(
        FREERTOS
        + """
static UBaseType_t set;
#ifdef __cplusplus
extern "C"
#endif
void vTaskPrioritySet(TaskHandle_t task, UBaseType_t priority) { if (task != NULL) set = priority; }
static uint32_t context, asked;
static uint32_t cycles(void *c) { return *(uint32_t *)c + 5; }
static rqdkm_aras_status set_clock(void *c, uint32_t p) { asked = p + *(uint32_t *)c; return RQDKM_ARAS_FALLBACK; }
int main(void) {
  rqdkm_aras_port board, port;
  rqdkm_aras_freertos tasks;
  static int task;
  context = 37;
  board.context = &context;
  board.cycles = cycles;
  board.set_clock = set_clock;
  tasks.inference = NULL;
  for (unsigned i = 0; i < RQDKM_ARAS_LEVELS; i++) tasks.levels[i] = 10 + i;
  rqdkm_aras_freertos_attach(&port, &tasks, &board);
  if (port.set_priority(port.context, 1) != RQDKM_ARAS_REFUSED || set != 0) return 1;
  tasks.inference = (TaskHandle_t)(void *)&task;
  if (port.set_priority(port.context, 2) != RQDKM_ARAS_OK || set != 12) return 2;
  if (port.set_priority(port.context, RQDKM_ARAS_LEVELS) != RQDKM_ARAS_REFUSED || set != 12) return 3;
  if (port.cycles(port.context) != 42) return 4;
  return port.set_clock(port.context, 3) == RQDKM_ARAS_FALLBACK && asked == 40 ? 0 : 5;
}
"""
    )
    text = source.read_text()
    if compiler[0] == "g++":
        source.write_text(text.replace("void vTaskPrioritySet(", 'extern "C" void vTaskPrioritySet(', 1))
    program = tmp_path / "adapter"
    flags = ["-Wall", "-Wextra", "-Werror", "-I", str(tflm_ops_dir() / "include")]
    subprocess.run([*compiler, *flags, str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=False).returncode == 0


def test_the_workload_of_the_tests_is_in_range() -> None:
    assert all(0.5 < factor <= 1.0 for factor in WORKLOAD.factors)
