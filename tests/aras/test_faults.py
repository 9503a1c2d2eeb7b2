"""Whatever goes wrong is counted with its kind, takes a bounded time, and ends at a clock that can be trusted."""

from __future__ import annotations

import ctypes
import math

import pytest

from rqdkm.aras.library import FAULTS, OK, REFUSED, RUN_ON, Aras
from rqdkm.aras.table import CTable
from tests.aras.boards import CYCLES, Scripted, built


def frame(aras: Aras, board: Scripted, *, cycles: float = 4_500_000, limit_us: int = 90_000) -> bool:
    """One frame, looked at every millisecond."""
    aras.begin(board.now_us() + limit_us)
    while cycles > 0:
        us = min(1_000.0, cycles / board.mhz[board.point])
        cycles -= us * board.mhz[board.point]
        board.run(us)
        aras.tick()
    return aras.end()


def faults(aras: Aras) -> dict[str, int]:
    return {name: count for name, count in aras.fault_counts.items() if count}


def test_without_faults_none_is_counted() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(50):
        assert frame(aras, board)
        aras.idle(board.now_us() + 50_000)
    assert faults(aras) == {} and aras.frames == 50 and aras.missed == 0
    assert any(call == "stop" for call, _ in board.calls)


def test_a_change_of_clock_that_outlasts_the_window_leaves_nothing_to_glances() -> None:
    """The time of a lock passes between the look at the window and the decision when to look again."""
    left = []
    for late in range(0, 600, 50):  # the window ends before, within and behind the lock of 300 us
        board, table = Scripted(), built()
        aras = Aras(table, board)
        for _ in range(10):
            frame(aras, board)
        aras.begin(board.now_us() + 90_000)
        while aras.glance_cycles == 0 or aras.level:
            board.run(1_000)
            aras.tick()
        left_us = aras.glance_cycles / board.mhz[board.point]  # until the window ends
        aras.end()
        board.run(left_us - late)
        aras.request(5)
        aras.begin(board.now_us() + 90_000)
        assert aras.point != 5 and aras.glance_cycles <= table.window_us * board.mhz[aras.point]
        left.append(aras.glance_cycles)
    assert 0 in left and max(left) > 0


def test_a_change_of_clock_is_made_at_the_highest_level() -> None:
    """Handlers in the middle of it would run at the slow clock of its way, and a burst of them hold it up."""

    class Watched(Scripted):
        def set_clock(self, point: int) -> int:
            levels.append(self.level)
            return super().set_clock(point)

    levels: list[int] = []
    board = Watched()
    aras = Aras(built(), board)
    for _ in range(10):
        frame(aras, board)
        aras.idle(board.now_us() + 50_000)
        assert board.level == aras.level == 0
    aras.begin(board.now_us() + 90_000)
    assert board.level == aras.level
    assert len(levels) > 3 and set(levels) == {3}


def test_who_asks_every_millisecond_is_looked_at_all_the_same() -> None:
    """A request moves what glances count from: they must not take the place of whole looks, which end windows."""
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(10):
        frame(aras, board)
    aras.begin(board.now_us() + 90_000)
    before = aras.window_us
    for _ in range(25):
        board.run(1_000)
        assert aras.request(aras.point) == OK
        assert aras.glance_cycles == 0
        aras.tick()
    assert aras.window_us >= before + 2 * 10_000


def test_asking_for_a_wait_that_is_over_forgets_nothing_of_the_rest() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    frame(aras, board)

    def handler() -> None:
        aras.rest_begin()
        board.run(600)
        aras.rest_end(0)

    for _ in range(30):
        aras.idle(board.now_us() + 5_000)
        handler()
    known = aras.wake.expected
    assert known == pytest.approx(600 * board.mhz[board.point], rel=0.05)
    for _ in range(200):
        assert aras.idle(board.now_us() - 1) == RUN_ON
        board.run(1)
    assert aras.wake.expected == known
    handler()
    assert aras.idle(board.now_us()) == RUN_ON
    handler()  # before and behind calls that did not wait: of one wait
    before = aras.wake.count
    aras.idle(board.now_us() + 5_000)
    assert aras.wake.count == before + 1 and aras.wake.expected > 1.3 * known


def test_a_cycle_counter_that_stands_still_leaves_the_fastest_clock_and_is_said_once() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(10):
        frame(aras, board)
    assert aras.point != 0
    board.frozen_counter = True
    for _ in range(5):
        frame(aras, board)
    assert aras.point == 0 and aras.stuck and faults(aras) == {"cycles": 1}
    board.frozen_counter = False
    for _ in range(20):
        frame(aras, board)
    assert not aras.stuck and aras.point != 0


def test_a_time_that_stands_still_leaves_the_fastest_clock() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(10):
        frame(aras, board)
    board.frozen_time = True
    for _ in range(3):
        frame(aras, board)
    assert aras.stuck and aras.point == 0 and faults(aras) == {"time": 1}


def test_a_time_that_goes_back_is_counted_and_nothing_gets_negative() -> None:
    board = Scripted(now_us=1_000_000)
    aras = Aras(built(), board)
    frame(aras, board)
    board.time -= 500_000
    frame(aras, board)
    assert faults(aras)["time"] >= 1
    assert 0 <= aras.load_inference <= 1 and 0 <= aras.load_rest <= 1 and aras.done >= 0


def test_a_counter_that_leaps_is_not_believed() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(10):
        frame(aras, board)
    before = aras.demand.expected
    aras.begin(board.now_us() + 90_000)
    board.run(20_000)
    board.counter += 3_000_000_000
    board.run(20_000)
    aras.end()
    assert faults(aras) == {"jump": 1}
    assert aras.demand.expected == pytest.approx(before, rel=0.5)


def test_a_counter_that_leaps_within_a_handler_makes_no_hurry_of_the_frames_behind() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(20):
        frame(aras, board)
        aras.idle(board.now_us() + 30_000)
    aras.begin(board.now_us() + 90_000)
    aras.rest_begin()
    board.counter += 2**31
    board.run(500)
    aras.rest_end(0)
    board.run(20_000)
    aras.end()
    assert faults(aras) == {"jump": 1}
    points = []
    for _ in range(8):
        aras.idle(board.now_us() + 30_000)
        frame(aras, board)
        points.append(aras.point)
    assert points.count(0) <= 1, points


@pytest.mark.parametrize("start", [0, 2**32 - 3_000_000, 2**32 - 1])
def test_the_cycle_counter_may_wrap(start: int) -> None:
    results = []
    for cycles in (0, start):
        board = Scripted(cycles=cycles)
        aras = Aras(built(), board)
        for _ in range(12):
            frame(aras, board)
            aras.rest_begin()
            board.run(700)
            aras.rest_end(0)
            aras.idle(board.now_us() + 30_000)
        results.append((aras.demand.expected, aras.load_rest, aras.point, aras.decisions, faults(aras)))
    assert results[0] == results[1] and results[0][-1] == {}


def test_time_may_begin_beyond_32_bits() -> None:
    board = Scripted(now_us=2**32 - 100_000)
    aras = Aras(built(), board)
    for _ in range(10):
        assert frame(aras, board)
        aras.idle(board.now_us() + 50_000)
    assert faults(aras) == {} and aras.missed == 0


def test_a_clock_that_never_gets_ready_ends_on_the_internal_oscillator_and_is_tried_ever_more_rarely() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(5):
        frame(aras, board)
        aras.idle(board.now_us() + 50_000)
    board.dead_pll = True
    tries = []
    for k in range(200):
        before = len(board.calls)
        frame(aras, board, cycles=500_000)
        aras.idle(board.now_us() + 50_000)
        assert len(board.calls) - before < 40
        tries += [k] * sum(call == ("clock", p) for call in board.calls[before:] for p in range(5))
    assert board.point == 5 and aras.point == 5
    assert faults(aras).keys() == {"clock"}
    assert 1 <= len(tries) <= 16, tries
    assert sum(k >= 100 for k in tries) <= 2
    board.dead_pll = False
    for _ in range(600):
        frame(aras, board, cycles=500_000)
    assert aras.clock_failures == 0 and aras.point != 5


def test_a_clock_that_falls_back_by_itself_is_followed() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    aras.begin(board.now_us() + 90_000)
    board.run(5_000)
    board.point = 5
    board.run(5_000)
    aras.tick()
    aras.end()
    assert faults(aras)["clock"] == 1 and aras.clock_failures >= 1


def test_a_port_that_refuses_everything_is_counted_and_does_not_loop() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    board.refuses = True
    before = len(board.calls)
    for _ in range(5):
        frame(aras, board)
        aras.idle(board.now_us() + 50_000)
    assert faults(aras).keys() == {"request"}
    assert len(board.calls) - before < 100


@pytest.mark.parametrize("point", [6, 7, 100, 2**32 - 1])
def test_a_request_out_of_the_table_is_refused(point: int) -> None:
    board = Scripted()
    aras = Aras(built(), board)
    assert aras.request(point) == REFUSED and board.calls == []
    assert faults(aras) == {"request": 1}
    assert aras.request(3) == OK and aras.point == 3


def test_a_frame_beyond_its_worst_case_is_counted_once_and_gets_the_fastest_clock() -> None:
    board = Scripted()
    aras = Aras(built(worst=1.0), board)
    for _ in range(10):
        frame(aras, board)
    frame(aras, board, cycles=8_000_000)
    assert faults(aras) == {"overrun": 1} and aras.point == 0


def _set(table: CTable, path: str, value: float) -> None:
    target: object = table
    *parts, last = path.split(".")
    for part in parts:
        target = target[int(part)] if part.isdigit() else getattr(target, part)  # type: ignore[index]
    setattr(target, last, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 3),
        ("points", 0),
        ("points", 9),
        ("safe", 6),
        ("point.0.hz", 0),
        ("point.3.hz", 169_000_000),
        ("point.2.factor", 0.0),
        ("point.2.factor", math.nan),
        ("point.1.run_ma", -1.0),
        ("point.1.sleep_ma", math.inf),
        ("switch_ma", math.nan),
        ("volts", 0.0),
        ("stop_ma", -0.1),
        ("wake_us", 1e9),
        ("worst_cycles", 0),
        ("tick_us", 0),
        ("guard_us", 2_000_000),
        ("window_us", 10),
        ("share", 0.95),
        ("hysteresis", -0.1),
        ("raise_cost", 2.0),
        ("quantile", 1.0),
    ],
)
def test_a_bad_table_is_refused_and_nothing_is_ever_set(path: str, value: float) -> None:
    table, board = built(), Scripted()
    _set(table, path, value)
    aras = Aras(table, board)
    assert aras.status < 0 and faults(aras) == {"table": 1}
    frame(aras, board)
    aras.rest_begin()
    aras.rest_end(0)
    assert aras.request(0) == REFUSED
    state = aras.morph_state(CYCLES, 90_000)
    assert all(math.isfinite(x) for x in state) and state[2] == 16e6
    assert not any(call in ("clock", "priority") for call, _ in board.calls)


def test_every_kind_of_fault_is_tested_here() -> None:
    assert set(FAULTS) == {"table", "request", "clock", "cycles", "jump", "time", "overrun"}


def test_a_stop_without_a_timer_counts_as_sleep() -> None:
    board = Scripted()
    board.no_timer = True
    aras = Aras(built(), board)
    frame(aras, board)
    aras.idle(board.now_us() + 50_000)
    assert list(aras.idles) == [0, 1, 0, 0]


def test_wild_answers_of_the_board_are_survived() -> None:
    """Clocks out of the table, deadlines in the past, rest that ends before it begins, classes that do not exist."""
    board = Scripted()
    aras = Aras(built(), board)
    aras.rest_end(2**32 - 1)
    aras.begin(0)
    board.run(1_000)
    aras.tick()
    assert aras.end() is False
    board.point = 5
    board.clock = lambda: 77  # type: ignore[method-assign]
    frame(aras, board)
    assert faults(aras)["clock"] >= 1
    aras.idle(0)
    aras.idle(2**64 - 1)
    aras.set_memory(10, 0)
    assert aras.memory == 0.0
    aras.set_memory(0, 100)
    assert aras.memory == 1.0
    assert ctypes.sizeof(CTable) > 0
