"""The firmware of examples/aras on the virtual board: real clock registers, timers as the rest, priorities in effect.

Every run has the board's clock rules on (``--strict-clock``); deadlines are judged by the virtual board's own time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rqdkm.aras import traces

EXAMPLE = Path(__file__).parents[2] / "examples" / "aras" / "run.py"
FRAMES = 10


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("aras_run", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def firmware(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return example.build(tmp_path_factory.mktemp("aras"))


def trace(example: ModuleType, firmware: Any, kind: str) -> traces.Trace:
    made = traces.make(kind, 1, frames=FRAMES, cycles=5 * firmware.workload.cycles[0])
    found: traces.Trace = example.quantized(made, firmware.workload)
    return found


def check(mine: Any, kind: str) -> None:
    assert mine.missed == 0 and mine.late <= (0.05 if kind == "adversarial" else 0.01) * mine.served
    assert mine.served > 100 and not any(mine.faults.values())
    assert mine.idles["stop"] > 5 and {stay.state.mode for stay in mine.stays} >= {"run", "stop", "wake-up"}
    assert 0 < mine.ticks < 0.002 and mine.control < 0.0125
    assert max(mine.cost[3:]) < 4_000  # a tick, deciding or not


@pytest.mark.parametrize("wrong", ["--seeds 0", "--frames 0", "--seed -1", "--kinds", "--kinds daily"])
def test_wrong_options_end_in_one_error(
    example: ModuleType, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *wrong.split()])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 2 and f"error: argument {wrong.split()[0]}: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in traces.KINDS if kind != "periodic"])
def test_no_frame_is_late_and_it_costs_little(example: ModuleType, firmware: Any, kind: str) -> None:
    check(example.run(firmware, trace(example, firmware, kind), "aras"), kind)


@pytest.mark.slow
def test_and_it_takes_less_energy_than_the_fastest_clock_and_little_more_than_the_oracle(
    example: ModuleType, firmware: Any
) -> None:
    (mine, fastest), simulated, best, _hopeless = example.compare(
        firmware, "periodic", frames=FRAMES, seed=1, governors=("aras", "always")
    )
    check(mine, "periodic")
    assert mine.energy_mj < 0.75 * fastest.energy_mj
    assert best.energy_mj <= simulated.energy_mj < mine.energy_mj < 1.04 * best.energy_mj
    assert sum(best.state_nj) == pytest.approx(1e6 * best.energy_mj)


@pytest.mark.slow
def test_without_stop_mode_it_dozes(example: ModuleType, firmware: Any) -> None:
    result = example.run(firmware, trace(example, firmware, "periodic"), "aras", can_stop=False)
    assert result.missed == 0 and result.idles["stop"] == 0 and result.idles["doze"] > 5
    assert not any(stay.state.mode == "stop" for stay in result.stays)


@pytest.mark.slow
def test_a_pll_that_never_locks_leaves_the_internal_oscillator_and_is_said(example: ModuleType, firmware: Any) -> None:
    result = example.run(firmware, trace(example, firmware, "periodic"), "aras", "--pll-dead")
    assert result.faults["clock"] >= 1 and set(result.points) <= {0, 5}
    assert sum(result.faults.values()) - result.faults["clock"] - result.faults["overrun"] == 0
    assert result.switches <= 4 * FRAMES
    assert {stay.state.hclk_hz for stay in result.stays if stay.state.mode == "run"} == {16_000_000}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [("--hse-dead",), ("--pll-miss", "4"), ("--lsi", "0")])
def test_lesser_faults_cost_no_frame(example: ModuleType, firmware: Any, fault: tuple[str, ...]) -> None:
    """No crystal; one lock that fails; no clock for stop mode."""
    result = example.run(firmware, trace(example, firmware, "periodic"), "aras", *fault)
    assert result.missed == 0
    if fault[0] == "--pll-miss":
        assert result.faults["clock"] == 1
    if fault[0] == "--lsi":
        assert result.idles["stop"] == 0 and result.idles["sleep"] > 5


@pytest.mark.slow
def test_cycles_are_those_of_the_clock(example: ModuleType, firmware: Any) -> None:
    """Fewer wait states, fewer cycles: what the table of the firmware was built from."""
    cycles = firmware.workload.cycles
    assert list(cycles) == sorted(cycles, reverse=True)
    assert 0.9 < cycles[-1] / cycles[0] < 0.99
