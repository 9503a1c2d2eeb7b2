"""The clock driver of the STM32F407 on the virtual board: every change, sleep, stop mode, and what goes wrong."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rqdkm.board.residency import read
from tests.board.conftest import run as run_command

EXAMPLE = Path(__file__).parents[2] / "examples" / "clocks"
MHZ = [168, 144, 120, 84, 42, 16, 84, 42]
INTERNAL = 5  # the point
OK, REFUSED, FALLBACK, NO_TIMER = range(4)
LOCK_US = 340  # 300 us for the fastest VCO, and the way there and back
CRYSTAL_US = 2000
SAME_PLL = [{0, 6, 7}, {3, 4}]


@pytest.fixture(scope="module")
def example() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of the example's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        yield importlib.import_module
    for name in ("times", "energy"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def times(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("times")


@pytest.fixture(scope="module")
def elf(times: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(times.build(tmp_path_factory.mktemp("clocks")))


@pytest.fixture
def drive(times: ModuleType, elf: Path) -> Callable[..., Any]:
    def drive(*commands: str, options: tuple[str, ...] = (), code: int = 0) -> Any:
        done = times.run(elf, commands, *options)
        assert done.code == code, done.messages
        assert len(done.replies) == len(commands) or code
        return done

    return drive


def time_errors(done: Any) -> list[float]:
    """The board's own time (its markers) against the virtual board's, relative to the first, microseconds."""
    markers = [(float(row["time_us"]), int(row["value"])) for row in done.events if row["event"] == "marker"]
    first = markers[0][0] - markers[0][1]
    return [at - value - first for at, value in markers]


def modes(done: Any, mode: str) -> float:
    return sum(row["time_ms"] for row in done.stats["residency"] if row["mode"] == mode)


# --- changes ---


@pytest.mark.parametrize("crystal", [True, False])
def test_every_change_of_clock_keeps_the_rules_and_the_serial_line(drive: Callable[..., Any], crystal: bool) -> None:
    """64 changes with --strict-clock; a reply that arrives and can be read has been sent at the right baud rate."""
    pairs = list(product(range(8), range(8)))
    done = drive(f"p {int(crystal)}", "c 5", *(f"c {point}" for pair in pairs for point in pair))
    for (start, end), reply in zip(pairs, done.replies[3::2], strict=True):
        assert (reply.status, reply.point, reply.hclk_hz) == (OK, end, MHZ[end] * 1_000_000), (start, end)
        assert reply.on_crystal == (crystal and end != INTERNAL)
        divides = start == end or any({start, end} <= same for same in SAME_PLL)
        assert reply.microseconds < (50 if divides or end == INTERNAL else LOCK_US), (start, end)
        assert divides or end == INTERNAL or reply.microseconds > 200, "the PLL does not lock sooner"
    assert done.stats["violations"] == []
    assert max(map(abs, time_errors(done))) < 5 + 0.2 * len(done.replies), "little time is lost in a change"


def test_clock_points_have_the_wait_states_and_the_voltage_that_they_need(drive: Callable[..., Any]) -> None:
    done = drive(*(command for point in range(8) for command in (f"c {point}", "b 10000")))
    long = [row for row in done.stats["residency"] if row["mode"] == "run" and row["time_ms"] > 8]
    found = {(r["hclk_hz"] // 1_000_000, r["wait_states"], r["scale"], r["vco_hz"] // 1_000_000) for r in long}
    assert found == {
        (168, 5, 1, 336),
        (144, 4, 2, 288),
        (120, 3, 2, 240),
        (84, 2, 2, 168),
        (42, 1, 2, 168),
        (16, 0, 2, 0),
        (84, 2, 1, 336),
        (42, 1, 1, 336),
    }


@pytest.mark.parametrize("point", [8, 99, 4294967295])
def test_a_point_out_of_the_table_is_refused(drive: Callable[..., Any], point: int) -> None:
    done = drive("c 3", f"c {point}")
    assert [(reply.status, reply.point, reply.refused) for reply in done.replies] == [(OK, 3, 0), (REFUSED, 3, 1)]


def test_a_timer_interrupt_keeps_its_rate_over_changes(drive: Callable[..., Any]) -> None:
    points = [0, 3, 5, 4, 6, 7, 1, 2, 0]
    done = drive("l 1000", *(command for point in points for command in (f"c {point}", "b 20000")))
    for reply in done.replies[2::2]:
        assert reply.interrupts in (19, 20, 21)


def test_priority_levels_hold_interrupts_back(drive: Callable[..., Any]) -> None:
    """The timer's urgency is 8: level 2 holds back 8 to 15, level 1 12 to 15."""
    done = drive("l 1000", "q 1", "b 10000", "q 2", "b 10000", "q 0", "b 10000", "q 4")
    counts = {command: reply.interrupts for command, reply in zip("l1a2b0cx", done.replies, strict=True)}
    assert counts["a"] in (9, 10, 11) and counts["b"] == 0 and counts["0"] == 1 and counts["c"] in (9, 10, 11)
    assert done.replies[-1].status == REFUSED


def test_cycles_are_counted_over_the_end_of_the_counter(drive: Callable[..., Any]) -> None:
    done = drive("o 4294900000", "b 2000")  # 396 us before it wraps
    assert done.replies[1].cycles == pytest.approx(336_000, abs=1000)


# --- sleep and stop ---


def test_sleep_ends_on_time_or_with_an_interrupt(drive: Callable[..., Any]) -> None:
    done = drive("z 10000", "c 5", "z 10000", "l 100", "z 1000000", "l 0", "z 60000000")
    replies = done.replies
    assert 10_000 <= replies[0].microseconds < 10_010 and 10_000 <= replies[2].microseconds < 10_030
    assert replies[0].cycles < 1000, "the core did not run"
    assert replies[4].microseconds < 11_000 and replies[4].interrupts == 1, "ended by the timer"
    assert 60_000_000 <= replies[6].microseconds < 60_000_025, "TIM5 wraps after 51 s at 84 MHz, not at 16 MHz"
    assert max(map(abs, time_errors(done))) < 10


def test_a_doze_ends_on_time_or_with_an_interrupt_at_the_clock_of_before(drive: Callable[..., Any]) -> None:
    done = drive("p 0", "c 2", "d 20000", "l 200", "d 20000", "l 0", "d 600")
    whole, cut, short = done.replies[2], done.replies[4], done.replies[6]
    assert 20000 <= whole.microseconds <= 20030 and whole.point == 2
    assert cut.interrupts == 1 and cut.microseconds < 5600 and cut.point == 2
    assert 600 <= short.microseconds <= 620
    dozed = [stay for stay in read(done.stats) if stay.state.mode == "sleep" and stay.state.vco_hz == 0]
    assert sum(stay.seconds for stay in dozed) * 1e3 == pytest.approx(20 + 5 - 2 * 0.3, abs=0.4)
    assert {stay.state.hclk_hz for stay in dozed} == {16_000_000}


def test_time_survives_the_end_of_the_timer(drive: Callable[..., Any]) -> None:
    done = drive("z 60000000", "z 60000000")
    assert all(60_000_000 <= reply.microseconds < 60_000_010 for reply in done.replies)
    assert max(map(abs, time_errors(done))) < 10


def test_waits_come_back_by_what_locks_took_not_by_what_they_may_take(drive: Callable[..., Any]) -> None:
    """The margin of the first is slept at the PLL's clock, which draws most; those of the others are short."""

    def margins_us(count: int) -> float:
        done = drive("p 0", "c 0", *["s 1 20000"] * count)
        assert all(20_000 <= reply.microseconds < 20_030 for reply in done.replies[3:])
        return 1e6 * sum(stay.seconds for stay in read(done.stats) if stay.state.mode == "sleep" and stay.state.vco_hz)

    first, many = margins_us(1), margins_us(11)
    assert first > 100 and (many - first) / 10 < 60


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_stop_ends_on_time_with_the_clock_of_before(times: ModuleType, drive: Callable[..., Any], kind: int) -> None:
    wake_up_ms = [0.013, 0.017, 0.110][kind]
    for crystal in (True, False):
        points = range(8)
        done = drive(f"p {int(crystal)}", "c 5", *(c for p in points for c in (f"c {p}", f"s {kind} 20000")))
        for point, reply in zip(points, done.replies[3::2], strict=True):
            assert (reply.status, reply.point, reply.on_crystal) == (OK, point, crystal and point != INTERNAL)
            assert 20_000 <= reply.microseconds < 20_030, "and the line is readable, so the baud rate is right"
        # the PLL's 0.36 ms and the crystal's 2.5 ms are slept when they are not needed; the rest is ticks of 31 us
        assert modes(done, "stop") > 8 * (20 - wake_up_ms - 0.36 - 2.5 * crystal - 0.5)
        assert modes(done, "wake-up") == pytest.approx(8 * wake_up_ms, abs=1e-6)
        assert max(map(abs, time_errors(done))) < 40


@pytest.mark.parametrize(("hz", "seconds"), [(17_000, 20), (32_000, 100), (47_000, 7)])
def test_the_low_speed_oscillator_is_measured(drive: Callable[..., Any], hz: int, seconds: int) -> None:
    """Whatever its frequency, and beyond the 4 s that the wake-up timer's fine prescaler reaches."""
    done = drive(f"s 1 {seconds * 1_000_000}", options=("--lsi", str(hz)))
    assert done.replies[0].microseconds == pytest.approx(seconds * 1_000_000, abs=10)
    assert modes(done, "stop") > 1000 * seconds - 10
    assert abs(done.stats["time_ms"] - 1000 * seconds) < 30 + 0.2 * seconds, "measured to 0.02 %"


def test_many_stops_do_not_shift_time(drive: Callable[..., Any]) -> None:
    done = drive("p 0", *["s 1 3000"] * 300)
    assert max(map(abs, time_errors(done))) < 300, "a microsecond a stop"
    assert modes(done, "stop") > 600


def test_a_pin_ends_a_stop_early(drive: Callable[..., Any], tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    pins.write_text("500 PA0 1\n501 PA0 0\n1000 PA0 1\n")
    done = drive("p 0", "c 0", "c 3", "e", "f", "f", options=("--pins", str(pins)))
    for reply in done.replies[-2:]:
        assert (reply.status, reply.point, reply.interrupts) == (OK, 3, 1)
    assert done.stats["time_ms"] == pytest.approx(1000, abs=1.5)
    assert max(map(abs, time_errors(done))) < 150, "LSI was measured to 0.01 %"


@pytest.mark.parametrize(
    ("way", "crystal", "before_us", "back_us"),
    [
        ("s 1 20000", 1, [3010, 2980, 2950, 2900, 1500, 700], 2400),
        ("s 1 20000", 0, [480, 440, 400, 350, 250, 150], 340),
        ("d 20000", 0, [500, 340, 300, 250, 200, 150], 340),
    ],
)
def test_an_interrupt_on_the_way_back_ends_the_wait_as_soon_as_the_clock_is_back(
    drive: Callable[..., Any], tmp_path: Path, way: str, crystal: int, before_us: list[int], back_us: int
) -> None:
    """The driver sleeps a while at 16 MHz and locks the PLL, all of it with interrupts masked."""
    commands = (f"p {crystal}", "c 5", "c 3", "e", way)
    whole = drive(*commands)
    assert whole.replies[-1].interrupts == 0 and 20_000 <= whole.replies[-1].microseconds < 20_030
    end_us = next(float(row["time_us"]) for row in reversed(whole.events) if row["event"] == "marker")
    for before in before_us:
        pins = tmp_path / "pins"
        pins.write_text(f"{(end_us - before) / 1e3:.4f} PA0 1\n")
        reply = drive(*commands, options=("--pins", str(pins))).replies[-1]
        assert (reply.status, reply.point, reply.interrupts, reply.on_crystal) == (OK, 3, 1, crystal)
        assert reply.microseconds < min(20_000 - before + back_us + 60, 19_990), before


def test_a_stop_that_is_too_short_is_slept(drive: Callable[..., Any]) -> None:
    done = drive("s 1 500", "s 1 2000", "s 3 1000")
    assert modes(done, "stop") == 0 and 2.4 < modes(done, "sleep") < 3.6
    assert [reply.status for reply in done.replies] == [OK, OK, REFUSED]
    assert 500 <= done.replies[0].microseconds < 510 and 2000 <= done.replies[1].microseconds < 2010


def test_without_a_real_time_clock_stop_sleeps_and_says_so(drive: Callable[..., Any]) -> None:
    done = drive("s 1 20000", "r 1", "s 1 20000", options=("--lsi", "0"))
    assert [reply.status for reply in done.replies] == [NO_TIMER] * 3
    assert modes(done, "stop") == 0 and 20_000 <= done.replies[0].microseconds < 20_010
    assert done.replies[1].microseconds < 5_100_000, "five seconds are granted to a 32 kHz crystal"


def test_the_32_khz_crystal_serves_as_well(drive: Callable[..., Any]) -> None:
    done = drive("r 1", "s 1 1000000", options=("--lse", "32768"))
    assert [reply.status for reply in done.replies] == [OK, OK] and modes(done, "stop") > 990
    assert max(map(abs, time_errors(done))) < 100


# --- faults: bounded, reported, at 16 MHz ---


def test_a_crystal_that_is_dead_from_the_start_is_not_waited_for_again(drive: Callable[..., Any]) -> None:
    done = drive("c 3", "c 5", "c 0", options=("--hse-dead",))
    assert [reply.status for reply in done.replies] == [OK] * 3
    assert [reply.point for reply in done.replies] == [3, INTERNAL, 0]
    assert {(reply.on_crystal, reply.crystal_faults) for reply in done.replies} == {(0, 1)}
    assert all(reply.microseconds < LOCK_US for reply in done.replies)


def test_a_crystal_that_does_not_come_back_after_a_stop(drive: Callable[..., Any]) -> None:
    done = drive("s 1 20000", "c 0", "s 1 20000", options=("--hse-stops", "12"))
    fallen, again, stopped = done.replies
    assert (fallen.status, fallen.point, fallen.crystal_faults) == (FALLBACK, INTERNAL, 1)
    assert fallen.microseconds < 20_000 + 110_000, "100 ms are granted to the crystal"
    assert (again.status, again.point, again.on_crystal) == (OK, 0, 0)
    assert (stopped.status, stopped.point) == (OK, 0) and stopped.microseconds < 20_010


def test_a_pll_that_never_locks(drive: Callable[..., Any]) -> None:
    done = drive("c 3", "c 0", "c 5", options=("--pll-dead",))
    assert [reply.status for reply in done.replies] == [FALLBACK, FALLBACK, OK]
    assert [reply.pll_faults for reply in done.replies] == [1, 2, 2]
    assert {(reply.point, reply.hclk_hz) for reply in done.replies} == {(INTERNAL, 16_000_000)}
    assert all(reply.microseconds < 8_000 for reply in done.replies)


@pytest.mark.parametrize("miss", [2, 3, 4])
def test_a_pll_that_misses_one_lock_is_used_again(drive: Callable[..., Any], miss: int) -> None:
    done = drive("c 3", "c 1", "s 1 20000", "c 0", options=("--pll-miss", str(miss)))
    assert [reply.status for reply in done.replies] == [FALLBACK if k + 2 == miss else OK for k in range(4)]
    assert done.replies[3].point == 0 and done.replies[3].pll_faults == 1
    assert done.replies[miss - 2].point == INTERNAL


def test_the_crystal_stops_while_the_core_runs_from_it(drive: Callable[..., Any]) -> None:
    done = drive("w", "l 1000", "c 3", "b 20000", "b 20000", "c 0", "b 20000", options=("--hse-stops", "12.5"))
    lost, after, again = done.replies[3], done.replies[4], done.replies[5]
    assert (lost.point, lost.hclk_hz, lost.crystal_faults) == (INTERNAL, 16_000_000, 1)
    assert after.interrupts in (19, 20, 21), "the timer follows"
    assert (again.status, again.point, again.on_crystal) == (OK, 0, 0)
    assert max(map(abs, time_errors(done))) < 10


def test_a_crystal_that_stops_while_the_time_is_read_costs_no_more_time(drive: Callable[..., Any]) -> None:
    """A busy wait reads it every 1.3 us: the count of the timer may be of before or behind the NMI."""
    for step in range(28):
        done = drive("w", "c 3", "b 8000", options=("--hse-stops", f"{12.48 + step * 0.00005:.5f}"))
        assert max(map(abs, time_errors(done))) < 8, step


def test_the_crystal_may_stop_at_any_moment(drive: Callable[..., Any]) -> None:
    """In the middle of changes, sleep and stop: no rule is broken, time goes on, and the clock comes back."""
    commands = ["w", "l 5000", "c 3", "p 0", "c 1", "p 1", "c 0", "c 6", "z 300", "s 1 5000", "c 0", "b 900", "b 900"]
    end = drive(*commands).stats["time_ms"]
    moments = random.Random(1)
    for _ in range(25):
        moment = moments.uniform(6.3, end - 2)  # the firmware has begun to watch at 6.2 ms
        done = drive(*commands, options=("--hse-stops", f"{moment:.6f}"))
        statuses = [reply.status for reply in done.replies]
        assert statuses.count(FALLBACK) <= 1 and set(statuses) <= {OK, FALLBACK}, moment
        last = done.replies[-1]
        assert (last.on_crystal, last.pll_faults) == (0, 0) and last.crystal_faults in (1, 2), moment
        assert last.interrupts in (4, 5), moment
        assert max(map(abs, time_errors(done))) < 30, moment  # a marker that the NMI holds up is 10 us late


def test_without_a_watch_a_crystal_that_stops_stops_the_core(drive: Callable[..., Any]) -> None:
    done = drive("b 20000", options=("--hse-stops", "12"), code=124)
    assert "clock security is off" in done.messages


def test_energy_of_the_worked_example(example: Callable[[str], ModuleType], elf: Path) -> None:
    energy = example("energy")
    start = energy.energy_mj(elf)
    cost = {name: energy.energy_mj(elf, energy.WORK, *commands) - start for name, commands in energy.WAYS.items()}
    busy, asleep, divided, slow, main, low, deep = cost.values()
    assert busy == pytest.approx(3.3 * 40 * 0.1, rel=0.002)
    assert asleep == pytest.approx(3.3 * (40 * 0.01 + 12 * 0.09), rel=0.005)
    assert busy > asleep > divided > slow > main > low > deep > 3.3 * 40 * 0.01


def test_the_page_says_what_is_measured(times: ModuleType, elf: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "clocks.md").read_text()
    lines = page[page.index("| us, from") :].splitlines()[2 : 2 + len(times.POINTS)]
    said = [[int(word) for word in line.strip("| ").split("|")[1:]] for line in lines]
    found = [[reply.microseconds for reply in row] for row in times.transitions(elf)]
    np.testing.assert_allclose(said, found, atol=8)


# --- images ---


def test_images_that_do_not_use_the_driver_do_not_carry_it(firmware: Path, elf: Path) -> None:
    mine, theirs = (run_command("arm-none-eabi-nm", image) for image in (elf, firmware))
    for symbol in ("board_clock_set", "board_stop", "board_time_us", "kPoints"):
        assert symbol in mine and symbol not in theirs
