"""The C library on simulated chips: deadlines, energy, the rest's share, and what an oracle could do."""

from __future__ import annotations

import ctypes
import functools
from typing import ClassVar

import numpy as np
import pytest

from rqdkm.aras import energy, oracle, simulate, study, table, traces
from rqdkm.aras.chip import Chip
from rqdkm.aras.library import Aras
from rqdkm.aras.policies import ArasGovernor, Cost
from rqdkm.aras.simulate import Outcome
from rqdkm.aras.table import CTable, Task
from rqdkm.aras.traces import Arrival, Trace
from tests.aras.boards import CYCLES, WORKLOAD, Scripted, built

FRAMES = 120


@functools.cache
def prepared(kind: str, seed: int = 5) -> tuple[Trace, CTable]:
    trace = traces.make(kind, seed, frames=FRAMES, cycles=CYCLES)
    return trace, built(worst=study.worst_of(trace, WORKLOAD))


@functools.cache
def outcome(kind: str, governor: str, can_stop: bool = True) -> Outcome:
    return simulate.run(*prepared(kind), governor, can_stop=can_stop)


@functools.cache
def best(kind: str) -> oracle.Best:
    return oracle.plan(*prepared(kind))


# ---- what is promised


@pytest.mark.parametrize("kind", ["periodic", "step", "bursty"])
def test_no_deadline_is_missed_where_the_oracle_misses_none(kind: str) -> None:
    assert best(kind).missed == 0
    assert outcome(kind, "aras").missed == 0
    assert not any(outcome(kind, "aras").faults.values())


def test_on_the_adversarial_trace_at_most_one_per_cent_more_are_missed() -> None:
    trace = traces.make("adversarial", 5, frames=150, cycles=CYCLES)
    constants = built(worst=study.worst_of(trace, WORKLOAD))
    found, allowed = simulate.run(trace, constants, "aras"), oracle.plan(trace, constants).missed
    assert found.missed <= allowed + 0.01 * len(found.frames)
    assert simulate.run(trace, constants, "ondemand").missed > found.missed + 5


@pytest.mark.parametrize(("kind", "above"), [("periodic", 0.02), ("step", 0.03), ("bursty", 0.07)])
def test_energy_is_near_the_offline_optimum_and_below_every_governor(kind: str, above: float) -> None:
    found = outcome(kind, "aras").energy_per_frame_mj
    floor = oracle.floor_mj(*prepared(kind)) / FRAMES
    assert floor <= best(kind).energy_per_frame_mj <= found * 1.0001
    assert found <= (1 + above) * best(kind).energy_per_frame_mj
    for governor in study.BASELINES:
        assert found < outcome(kind, governor).energy_per_frame_mj


def test_the_floor_is_of_what_comes_before_the_last_deadline() -> None:
    trace, constants = prepared("periodic")
    end = max(a.time_us + a.limit_us for a in trace if a.frame)
    behind, before = (Arrival(at, False, 1_000_000, 1_000) for at in (end, end - 1))
    floor = oracle.floor_mj(trace, constants)
    assert oracle.floor_mj((*trace, behind), constants) == floor
    assert oracle.floor_mj((*trace, before), constants) > floor + 0.3, "a million cycles take 0.6 mJ or more"


def test_with_long_waits_a_fifth_less_than_the_best_governor_without_stop() -> None:
    trace = tuple(Arrival(k * 200_000, True, CYCLES, 180_000, timed=True) for k in range(60))
    found = study.compare(trace, built(), "200 ms")
    assert found.aras.missed == 0 and found.rivals[0] == "sleep"
    assert found.saving(found.rivals[0]) > 0.2
    assert found.best is not None
    assert found.aras.energy_per_frame_mj < 1.01 * found.best.energy_per_frame_mj


def test_its_own_calls_cost_about_a_hundredth_of_the_time() -> None:
    for kind in ("periodic", "step"):
        found = outcome(kind, "aras")
        awake = sum(found.tally.time_us[name] for name in ("inference", "rest", "control"))
        assert 0 < found.tally.time_us["control"] < 0.015 * awake


# ---- the guarantee


@pytest.mark.parametrize("scale", [1.0, 1.5, 1.9])
def test_a_frame_that_is_suddenly_the_worst_one_is_in_time(scale: float) -> None:
    """Thirty small frames, then the longest one, without a word."""
    frames = [Arrival(k * 100_000, True, CYCLES // 4, 90_000, timed=True) for k in range(30)]
    frames.append(Arrival(3_000_000, True, round(scale * CYCLES), 90_000, timed=True))
    found = simulate.run(tuple(frames), built(worst=scale), "aras")
    assert found.missed == 0
    lazy = simulate.run(tuple(frames), built(worst=0.3), "aras")
    assert lazy.faults["overrun"] == 1  # a worst case that is none is noticed


def test_the_rest_cannot_hold_up_a_frame_and_keeps_its_share() -> None:
    """The rest wants everything for a second: it gets at least what it is granted, and frames are in time."""
    share, period = 0.2, 100_000
    frames = [Arrival(k * period, True, CYCLES, 90_000, timed=True) for k in range(20)]
    rest = [Arrival(t, False, 168 * 1_000, 10**8) for t in range(400_000, 1_400_000, 1_000)]
    trace = tuple(sorted([*frames, *rest], key=lambda a: (a.time_us, a.frame)))
    found = simulate.run(trace, built(share=share, worst=1.05), "aras", keep=True)
    assert found.missed == 0
    long = 60_000  # a window's worth may be borrowed
    for start in np.arange(410_000, 1_330_000, 5_000.0):
        got = sum(
            max(0.0, min(s.end_us, start + long) - max(s.start_us, start))
            for s in found.stretches
            if s.activity == "rest"
        )
        assert got >= share * (long - 25_000), start
    assert simulate.run(trace, built(share=share, worst=1.05), "always").missed > 5


def test_urgent_work_is_never_held_up() -> None:
    frames = [Arrival(k * 100_000, True, round(1.8 * CYCLES), 90_000, timed=True) for k in range(20)]
    urgent = [Arrival(t, False, 2_000, 500, level=3) for t in range(500, 2_000_000, 7_000)]
    waiting = [Arrival(t, False, 90_000, 10**8) for t in range(700, 2_000_000, 2_500)]
    trace = tuple(sorted([*frames, *urgent, *waiting], key=lambda a: (a.time_us, a.frame)))

    class Watched(ArasGovernor):
        levels: ClassVar[set[int]] = set()

        def tick(self) -> None:
            super().tick()
            Watched.levels.add(self.chip.level)

    found = simulate.run(trace, built(worst=1.85), Watched)
    assert found.missed == 0 and max(Watched.levels) > 0
    # those that found it awake: a wake-up with the PLL costs more than their limit
    assert found.tally.rest_late < 0.2 * len(urgent)


def test_announced_cycles_are_taken_over_at_once() -> None:
    """A kernel four times as long, announced: the clock is right from the first frame on."""
    sizes = [CYCLES // 4] * 20 + [CYCLES] * 20
    frames = tuple(Arrival(k * 70_000, True, size, 63_000, timed=True, announced=size) for k, size in enumerate(sizes))
    told = simulate.run(frames, built(worst=1.05, share=0.1), "aras")
    assert told.missed == 0
    assert [f.point for f in told.frames[20:]] == [told.frames[30].point] * 20


# ---- what it sees


def test_before_the_first_frame_it_stops_as_well() -> None:
    """A sensor that has not spoken yet may be silent for hours."""
    found = simulate.run((Arrival(2_000_000, True, CYCLES, 90_000),), built(), "aras")
    assert found.missed == 0 and found.tally.time_us["stop"] > 1_990_000


def test_work_behind_a_wait_is_served_at_a_clock_that_suits_it() -> None:
    """60,000 cycles behind every wake-up cost a third less at 120 MHz than on the internal oscillator, also where
    their handler runs when the wait has returned."""
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(40):
        aras.idle(board.now_us() + 10_000)
        aras.rest_begin()
        board.run(60_000 / board.mhz[board.point])
        aras.rest_end(0)
    assert board.mhz[board.point] in (120, 144)


def _served(load: float, ms: int) -> tuple[dict[int, float], int]:
    """Milliseconds of the rest by clock point, and late items: so much of full speed for so long, then nothing."""
    items = [Arrival(100_000 + 2_000 * k, False, round(load * 2_000 * 168), 250_000) for k in range(ms // 2)]
    first, last = Arrival(0, True, CYCLES, 90_000), Arrival(3_000_000, True, CYCLES, 90_000)
    found = simulate.run((first, *items, last), built(), "aras", keep=True)
    by_point: dict[int, float] = {}
    for stretch in found.stretches:
        if stretch.activity == "rest":
            by_point[stretch.point] = by_point.get(stretch.point, 0.0) + (stretch.end_us - stretch.start_us) / 1e3
    return by_point, found.tally.rest_late


def test_a_backlog_is_worked_off_where_that_takes_least_and_one_that_lasts_at_the_fastest_clock() -> None:
    short, late = _served(1.2, 60)
    assert short.get(0, 0.0) == 0.0 and late == 0
    lasting, late = _served(0.95, 1_500)
    assert lasting[0] > 1_200 and late == 0


def test_what_was_held_back_does_not_make_the_rest_look_greater_than_it_is() -> None:
    """A third of the time, masked for 35 ms of every 100: served in a row it would look like all of the time."""
    board = Scripted()
    aras = Aras(built(), board)
    rate = 0.35 * 168
    for _ in range(30):
        aras.begin(board.now_us() + 36_500)  # in a hurry: the highest level from the first moment on
        assert aras.level == 3
        for _ in range(35):
            board.run(1_000)
            aras.tick()
        aras.end()
        left = rate * 100_000
        while left > 0.0:
            aras.rest_begin()
            board.run(min(left, 1e5) / board.mhz[board.point])
            aras.rest_end(0)
            left -= 1e5
            aras.idle(board.now_us() + 50)
        aras.idle(board.now_us() + 25_000)
    assert aras.rate[0] < 1.3 * rate


def _window(aras: Aras, board: Scripted, load: float, clocks: tuple[int, int], split: float) -> None:
    """A window of 20 ms whose last part has another clock; the rest takes so much of either."""
    for point, part in zip(clocks, (split, 1 - split), strict=True):
        aras.request(point)
        us = 20_000 * part
        aras.rest_begin()
        board.run(load * us)
        aras.rest_end(0)
        board.run((1 - load) * us)


def test_whether_the_rest_keeps_the_core_busy_is_told_by_the_clocks_of_the_window() -> None:
    """Before it is known what the rest waits for, its rate is unknown; not so where it left time to others."""
    board = Scripted()
    aras = Aras(built(), board)
    for _ in range(4):
        _window(aras, board, 0.2, (1, 5), 0.95)  # in cycles more than all that the last clock gives in a window
    assert 0.15 * 144 < aras.rate[0] < 0.3 * 144
    aras = Aras(built(), board)
    for _ in range(4):
        _window(aras, board, 1.0, (5, 1), 0.95)  # much less than that, but all that there was
    assert aras.rate[0] == 0.0


def test_a_class_that_is_masked_in_every_window_is_followed_up_and_down() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    found: list[float] = []
    for load, seconds in ((0.1, 3), (0.35, 4), (0.1, 8)):
        for _ in range(round(seconds / 0.015)):
            aras.begin(board.now_us() + 36_500)  # in a hurry: the highest level
            for _ in range(6):
                board.run(1_000)
                aras.tick()
            assert aras.level == 3
            aras.end()
            aras.rest_begin()
            board.run(load * 168 * 15_000 / board.mhz[board.point])  # what was held back, and what comes now
            aras.rest_end(0)
            board.run(9_000 - load * 168 * 15_000 / board.mhz[board.point])
        found.append(aras.rate[0] / (load * 168))
    assert all(0.85 < x < 1.35 for x in found), found


def test_most_looks_are_glances_and_none_overlooks_the_rest() -> None:
    class Watched(Scripted):
        looks = 0

        def now_us(self) -> int:
            self.looks += 1
            return super().now_us()

    def ticks(count: int, rest: float) -> None:
        for _ in range(count):
            aras.rest_begin()
            board.run(1_000 * rest)
            aras.rest_end(0)
            board.run(1_000 * (1 - rest))
            aras.tick()

    board = Watched()
    aras = Aras(built(), board)
    for _ in range(10):
        aras.begin(board.now_us() + 90_000)
        ticks(35, 0.0)
        aras.end()
        board.run(55_000)
    aras.begin(board.now_us() + 90_000)
    point, board.looks = aras.point, 0
    ticks(12, 0.0)
    assert point != 0 and board.looks == 0  # only whole looks read the time
    decided = aras.decisions
    ticks(7, 0.6)
    assert aras.decisions > decided, "within the window"


@pytest.mark.parametrize("raised", [False, True])
def test_what_a_glance_leaves_of_the_reserve_lasts_until_the_next_look(raised: bool) -> None:
    """At a raised level what is owed to the rest grows with time, and the reserve shrinks by its part of that, too. A
    whole look in place of the glance tells how much there is."""

    class Watched(Scripted):
        looks = 0

        def now_us(self) -> int:
            self.looks += 1
            return super().now_us()

    board = Watched()
    aras = Aras(built(worst=2.6), board)
    longest_us = aras._c.rqdkm_aras_longest_us
    longest_us.argtypes, longest_us.restype = [ctypes.c_void_p, ctypes.c_float], ctypes.c_float
    size, table = aras._c.rqdkm_host_size(b"rqdkm_aras"), aras.table
    load, lacks = 0.5 if raised else 0.1, []

    def whole_look(deadline: int) -> float:
        """The reserve as it finds it."""
        left, point = deadline - board.now_us() - table.guard_us, aras.point
        ctypes.c_uint32.from_address(aras.address("glance_cycles")).value = 0
        aras.tick()
        return left - longest_us(aras.pointer, aras.worst - aras.done) - table.switch_us[point][0] - table.tick_us

    for limit in range(100_000, 220_000, 1_000):
        deadline = board.now_us() + limit
        aras.begin(deadline)
        while aras.done < 1.8 * CYCLES:
            if aras.level == 0:
                aras.rest_begin()
                board.run(1_000 * load)
                aras.rest_end(0)
            board.run(1_000 if aras.level else 1_000 - 1_000 * load)
            before, state = ctypes.string_at(aras.pointer, size), dict(vars(board))
            level, looked, board.looks = aras.level, aras.looked_cycles, 0
            aras.tick()
            if board.looks or aras.looked_cycles == looked or (level != 0) != raised:
                continue
            after, next_look = ctypes.string_at(aras.pointer, size), (aras.glance_ticks - 0.5) * table.tick_us
            ctypes.memmove(aras.pointer, before, size)
            lasts = whole_look(deadline) / (1 + table.share / (1 - table.share) if raised else 1)
            vars(board).update(state)
            ctypes.memmove(aras.pointer, after, size)
            lacks.append(next_look - lasts)
        aras.end()
        board.run(20_000)
        aras.idle(board.now_us() + 20_000)
    assert len(lacks) > 100
    assert max(lacks) <= 0.0


# ---- the simulator itself


@pytest.mark.parametrize("governor", ["always", "ondemand", "sleep", "stop", "aras"])
def test_time_and_work_add_up(governor: str) -> None:
    trace, constants = prepared("periodic")
    found = outcome("periodic", governor)
    assert sum(found.tally.time_us.values()) == pytest.approx(found.time_us)
    assert len(found.frames) == FRAMES
    rest = [a.cycles for a in trace if not a.frame and a.time_us <= found.time_us]
    assert (found.tally.rest_served, found.tally.rest_cycles) == (len(rest), sum(rest))
    if governor in ("always", "stop", "sleep"):
        cycles = sum(a.cycles for a in trace if a.frame)
        assert found.tally.time_us["inference"] == pytest.approx(cycles / 168, rel=1e-6)
        expected = constants.volts * constants.point[0].run_ma * cycles / 168
        assert found.tally.energy_nj["inference"] == pytest.approx(expected, rel=1e-6)


def test_an_idle_second_costs_what_the_table_says() -> None:
    trace = (Arrival(0, True, 168, 1_000_000, timed=True),)
    assert simulate.run(trace, built(), "always").energy_mj == pytest.approx(3.3 * 12, rel=1e-3)
    assert simulate.run(trace, built(), "sleep").energy_mj == pytest.approx(3.3 * 2, rel=5e-3)
    assert simulate.run(trace, built(), "stop").energy_mj == pytest.approx(3.3 * 0.31, rel=1e-2)


def test_changes_of_clock_take_the_time_of_the_table() -> None:
    chip = Chip(built(), ())
    chip.set_clock(2)
    assert chip.t == pytest.approx(5 + 200 + (240 - 100) * 100 / 332, abs=1)
    before = chip.t
    chip.set_clock(5)
    assert chip.t - before == 5
    with_crystal = Chip(built(crystal=True), ())
    with_crystal.set_clock(5)
    before = with_crystal.t
    with_crystal.set_clock(0)
    assert with_crystal.t - before == pytest.approx(2271, abs=1)


def test_the_same_trace_gives_the_same_outcome() -> None:
    trace, constants = prepared("bursty")
    again = simulate.run(trace, constants, "aras")
    assert again.energy_mj == outcome("bursty", "aras").energy_mj
    assert again.frames == outcome("bursty", "aras").frames


def test_without_stop_it_never_stops() -> None:
    found = outcome("periodic", "aras", can_stop=False)
    assert found.tally.time_us["stop"] == 0 and found.missed == 0
    assert outcome("periodic", "aras").energy_mj < found.energy_mj < outcome("periodic", "always").energy_mj


def test_a_frame_that_waited_too_long_is_left_out_and_counts_as_missed() -> None:
    trace = (Arrival(0, True, 50 * CYCLES, 1_000, timed=True), Arrival(10_000, True, CYCLES, 50_000, timed=True))
    found = simulate.run(trace, built(worst=100), "always")
    assert [f.missed for f in found.frames] == [True, True] and found.frames[1].finish_us is None


def test_the_oracle_finds_the_best_of_a_case_worked_out_by_hand() -> None:
    """One frame: 120 MHz is best if there is time (3.3 x 26 mA x 4.88e6 / 120), 168 MHz if there is just enough."""
    constants = table.build(energy.read(), WORKLOAD, Task())
    run = 3.3 * 26 * 4_880_000 / 120 / 1e6
    change = 3.3 * 6.6 * 247 / 1e6
    rest = 3.3 * 0.31 * (200_000 - 247 - 4_880_000 / 120) / 1e6
    leisure = oracle.plan((Arrival(0, True, CYCLES, 200_000, timed=True),), constants)
    assert leisure.missed == 0
    assert leisure.energy_mj == pytest.approx(run + change + rest, rel=2e-3)
    hurry = oracle.plan((Arrival(0, True, CYCLES, 29_800, timed=True),), constants)
    assert hurry.missed == 0 and hurry.energy_mj == pytest.approx(3.3 * 40 * CYCLES / 168 / 1e6, rel=2e-3)
    assert oracle.plan((Arrival(0, True, CYCLES, 29_700, timed=True),), constants).missed == 1


@pytest.mark.parametrize("kind", ["bursty", "adversarial"])
def test_the_oracle_finds_nothing_better_by_keeping_more_schedules(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traces.make(kind, 12, frames=30, cycles=CYCLES)
    few = oracle.plan(trace, built(worst=3))
    monkeypatch.setattr(oracle, "_MOST_LABELS", 60)
    many = oracle.plan(trace, built(worst=3))
    assert (many.missed, many.energy_mj) == (few.missed, pytest.approx(few.energy_mj, rel=1e-9))


def _alone(rest: list[Arrival], *, cycles: int, limit_us: int = 90_000) -> tuple[Trace, CTable]:
    """One frame at time 20 ms with a worst case of 5 % more, and what the rest does."""
    frame = Arrival(20_000, True, cycles, limit_us, timed=True)
    trace = tuple(sorted([frame, *rest], key=lambda a: (a.time_us, a.frame)))
    return trace, built(worst=1.05 * cycles / CYCLES)


@pytest.mark.parametrize("phase", [*range(8), 27, 28, 29, 37, 59])
def test_a_frame_without_a_reserve_is_in_time_although_a_burst_gets_its_share(phase: int) -> None:
    """74 ms of work in 90 ms, and handlers that would take 80 % of the time. In the later phases one more handler would
    begin at the end of a time that is given back."""
    rng = np.random.default_rng(phase)
    starts = np.cumsum(rng.uniform(2_400, 3_600, 28)) + 20_500
    rest = [Arrival(int(t), False, int(168 * 2_400 * rng.uniform(0.7, 1.3)), 300_000) for t in starts]
    trace, constants = _alone(rest, cycles=74_000 * 168)
    chips: list[Chip] = []

    class Watched(ArasGovernor):
        served_us = 0.0

        def begin(self, frame: Arrival) -> Arrival:
            chips.append(self.chip)
            return super().begin(frame)

        def end(self) -> None:
            Watched.served_us = self.chip.tally.time_us["rest"]
            super().end()

    found = simulate.run(trace, constants, Watched)
    assert found.missed == 0 and oracle.hopeless(trace, constants) == ()
    took = (found.frames[0].finish_us or 0.0) - rest[0].time_us
    assert Watched.served_us >= constants.share * (took - 1.25 * constants.window_us)


def test_hopeless_is_a_frame_that_only_the_rests_share_delays() -> None:
    early = [Arrival(21_000, False, 168 * 1_000, 50_000)]
    trace, constants = _alone(early, cycles=74_000 * 168, limit_us=74_500)
    assert oracle.plan(trace, constants).missed == 0 and oracle.hopeless(trace, constants) == (0,)
    late = [Arrival(80_000, False, 168 * 1_000, 50_000)]  # it can wait: the promise is for longer times
    assert oracle.hopeless(*_alone(late, cycles=74_000 * 168, limit_us=74_500)) == ()
    urgent = [Arrival(30_000, False, 168 * 1_000, 1_000, level=3)]
    assert oracle.hopeless(*_alone(urgent, cycles=74_000 * 168, limit_us=74_500)) == (0,)
    constants.share = 0.0
    assert oracle.hopeless(trace, constants) == ()


def test_ticks_interrupt_handlers_but_for_the_most_urgent() -> None:
    ticks: dict[int, list[float]] = {}
    for level in (0, 3):
        trace, constants = _alone([Arrival(1_500, False, 168 * 5_000, 50_000, level=level)], cycles=CYCLES)
        chip, found = Chip(constants, trace), ticks.setdefault(level, [])
        chip.compute(168 * 3_000, lambda chip=chip, found=found: found.append(chip.t))
    assert ticks[0] == pytest.approx([1_000 * k for k in range(1, 8)], abs=1)
    assert ticks[3][:3] == pytest.approx([1_000, 6_500, 7_000], abs=1)


def test_a_tick_costs_its_interrupt_too() -> None:
    class Ticks(ArasGovernor):
        def __init__(self, chip: Chip) -> None:
            super().__init__(chip, Cost(call=0, decision=0, tick=0))

        def tick(self) -> None:
            Ticks.count += 1
            super().tick()

        count = 0

    trace, constants = _alone([], cycles=CYCLES)
    spent = simulate.run(trace, constants, Ticks).tally.time_us["control"]
    assert Ticks.count > 25 and spent * constants.point[0].hz / 1e6 >= 22 * Ticks.count
