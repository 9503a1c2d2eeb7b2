"""A chip in events: clock points, sleep, stop, the rest's interrupts, and the energy of each stretch of time.

Nothing here decides. Time is in microseconds, energy in nanojoules (volts times mA times microseconds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rqdkm.aras.library import OK, REFUSED, Board
from rqdkm.aras.table import LEVELS, CTable
from rqdkm.aras.traces import Arrival, Trace

#: What time is spent on.
ACTIVITIES = ("inference", "rest", "control", "switch", "sleep", "stop", "wake", "wait")
#: What state the chip spends it in: runs on the PLL; runs on the internal oscillator, changes of clock and wake-ups
#: included; sleeps; is stopped.
STATES = ("on the PLL", "at 16 MHz", "asleep", "stopped")
PLL, INTERNAL, ASLEEP, STOPPED = range(4)
_LEAST_STOP_US = 50.0
_WAITS = {"sleep": ASLEEP, "stop": STOPPED}
MOST_TICKS = 4  # RQDKM_ARAS_HELD of the C library


@dataclass(frozen=True)
class Stretch:
    """One activity at one clock, for plots."""

    start_us: float
    end_us: float
    activity: str
    point: int


@dataclass
class Tally:
    """What it came to."""

    energy_nj: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    time_us: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    point_us: dict[int, float] = field(default_factory=dict)
    state_nj: list[float] = field(default_factory=lambda: [0.0] * len(STATES))
    switches: int = 0
    rest_served: int = 0
    rest_late: int = 0
    rest_cycles: float = 0.0
    worst_rest_us: float = 0.0


class Chip(Board):
    """See the module.

    Args:
        table: currents, points and times.
        trace: what arrives.
        keep: note every stretch of time, for plots.
    """

    def __init__(self, table: CTable, trace: Trace, *, keep: bool = False) -> None:
        self.table, self.trace, self.keep = table, trace, keep
        self.mhz = [table.point[p].hz / 1e6 for p in range(table.points)]
        self.factor = [float(table.point[p].factor) for p in range(table.points)]
        self.run_ma = [float(table.point[p].run_ma) for p in range(table.points)]
        self.sleep_ma = [float(table.point[p].sleep_ma) for p in range(table.points)]
        self.switch_us = [[float(x) for x in row] for row in table.switch_us]
        self.t = 0.0
        self.counter = 0.0
        self.point, self.level = 0, 0
        self.next = 0  # of the trace
        self.frames: deque[Arrival] = deque()
        self.pending: list[deque[Arrival]] = [deque() for _ in range(LEVELS)]
        self.tally = Tally()
        self.stretches: list[Stretch] = []
        self._due = float("inf")  # of a tick, while a frame is computed or somebody waits for handlers
        self._ticks: Callable[[], None] = lambda: None
        self.tick: Callable[[], None] = lambda: None
        self.rest_begin: Callable[[], None] = lambda: None
        self.rest_end: Callable[[int], None] = lambda _: None

    # ---- time

    def spend(self, us: float, ma: float, activity: str, *, point: int | None = None, counts: bool = True) -> None:
        if us <= 0.0:
            return
        at = self.point if point is None else point
        energy = self.table.volts * ma * us
        self.tally.energy_nj[activity] += energy
        running = INTERNAL if at == self.table.safe else PLL
        self.tally.state_nj[_WAITS.get(activity, running)] += energy
        self.tally.time_us[activity] += us
        self.tally.point_us[at] = self.tally.point_us.get(at, 0.0) + us
        if self.keep:
            last = self.stretches[-1] if self.stretches else None
            if last is not None and last.activity == activity and last.point == at and last.end_us == self.t:
                self.stretches[-1] = Stretch(last.start_us, self.t + us, activity, at)
            else:
                self.stretches.append(Stretch(self.t, self.t + us, activity, at))
        self.t += us
        if counts:
            self.counter += us * self.mhz[at]

    def next_time(self) -> float:
        return float(self.trace[self.next].time_us) if self.next < len(self.trace) else float("inf")

    def pump(self) -> None:
        """Whatever has arrived by now waits to be served."""
        while self.next < len(self.trace) and self.trace[self.next].time_us <= self.t + 1e-6:
            arrival = self.trace[self.next]
            self.next += 1
            if arrival.frame:
                self.frames.append(arrival)
            else:
                self.pending[arrival.level].append(arrival)

    # ---- the rest

    def unmasked(self) -> bool:
        return any(self.pending[level] for level in range(self.level, LEVELS))

    def serve(self, above: int = 0, until: float = float("inf")) -> None:
        """Handlers that the priority level lets through, the most urgent class first; of classes from ``above``. None
        is begun after ``until``."""
        self.pump()
        while self.t < until:
            if above < LEVELS:  # ticks do not interrupt the most urgent class
                self._tick_if_due()
            lowest = max(self.level, above)
            level = next((x for x in range(LEVELS - 1, lowest - 1, -1) if self.pending[x]), None)
            if level is None:
                return
            self._handle(self.pending[level].popleft())

    def _handle(self, arrival: Arrival) -> None:
        """One handler; more urgent ones interrupt it, and ticks all but the most urgent class."""
        cycles = float(arrival.cycles)
        ticks = arrival.level < LEVELS - 1
        self.rest_begin()
        while cycles > 1e-6:
            ends = min(self.next_time(), self._due) if ticks else self.next_time()
            us = min(cycles / self.mhz[self.point], max(ends - self.t, 0.0) or 1e-9)
            self.spend(us, self.run_ma[self.point], "rest")
            cycles -= us * self.mhz[self.point]
            if self.next_time() <= self.t + 1e-6:
                self.serve(arrival.level + 1)
            if ticks:
                self._tick_if_due()
        self.rest_end(arrival.level)
        waited = self.t - arrival.time_us
        self.tally.rest_served += 1
        self.tally.rest_cycles += arrival.cycles
        self.tally.rest_late += waited > arrival.limit_us
        self.tally.worst_rest_us = max(self.tally.worst_rest_us, waited)
        self.pump()

    def _tick_if_due(self) -> None:
        """A timer's interrupt, every ``tick_us``; what it decides holds for handlers that wait."""
        if self.t < self._due:
            return
        while self._due <= self.t:  # a timer keeps one request
            self._due += self.table.tick_us
        self._ticks()

    def compute(self, cycles: float, tick: Callable[[], None]) -> None:
        """A frame: the rest interrupts it, ``tick`` is called every ``tick_us``."""
        self._due, self._ticks = self.t + self.table.tick_us, tick
        while cycles > 1e-6:
            self.serve()
            if self.t >= self._due:
                continue
            rate = self.mhz[self.point] / self.factor[self.point]
            us = min(cycles / rate, self._due - self.t, max(self.next_time() - self.t, 0.0) or 1e-9)
            self.spend(us, self.run_ma[self.point], "inference")
            cycles -= us * rate
        self._due = float("inf")

    def control(self, cycles: float) -> None:
        """Time that the governor itself takes."""
        self.spend(cycles / self.mhz[self.point], self.run_ma[self.point], "control")

    # ---- the port

    def cycles(self) -> int:
        return int(self.counter)

    def now_us(self) -> int:
        return int(self.t)

    def clock(self) -> int:
        return self.point

    def set_clock(self, point: int) -> int:
        if not 0 <= point < self.table.points:
            return REFUSED
        if point != self.point:
            self.tally.switches += 1
            self.spend(self.switch_us[self.point][point], self.table.switch_ma, "switch", point=self.table.safe)
            self.point = point
        return OK

    def set_priority(self, level: int) -> int:
        if not 0 <= level < LEVELS:
            return REFUSED
        self.level = level
        return OK

    def busy(self) -> bool:
        self.pump()
        return bool(self.frames) or self.unmasked()

    def handle(self) -> None:
        """What has come since; no longer than a few ticks: their interrupt raises the priority of who waits."""
        self._due, self._ticks = self.t + self.table.tick_us, self.tick
        self.serve(until=self.t + MOST_TICKS * self.table.tick_us)
        self._due = float("inf")

    def sleep(self, until_us: int) -> int:
        if not self.busy():
            end = min(float(until_us), self.next_time())
            self.spend(end - self.t, self.sleep_ma[self.point], "sleep", counts=False)
        self.handle()
        return OK

    def doze(self, until_us: int) -> int:
        safe = self.table.safe
        leave, back = self.switch_us[self.point][safe], self.switch_us[safe][self.point]
        return self._away(until_us, leave, back, self.sleep_ma[safe], "sleep", 0.0)

    def stop(self, until_us: int) -> int:
        back = self.switch_us[self.table.safe][self.point]
        return self._away(until_us, 0.0, back, self.table.stop_ma, "stop", self.table.wake_us)

    def _away(self, until_us: int, leave: float, back: float, ma: float, activity: str, wake: float) -> int:
        """Without the PLL; it is back before handlers run, and by ``until_us``."""
        safe = self.table.safe
        if not self.busy():
            if until_us - leave - wake - back - self.t < _LEAST_STOP_US or self.next_time() <= self.t + leave:
                return self.sleep(until_us)
            self.spend(leave, self.table.switch_ma, "switch", point=safe)
            end = min(until_us - wake - back, self.next_time())
            self.spend(end - self.t, ma, activity, point=safe, counts=False)
            self.spend(wake, self.table.wake_ma, "wake", point=safe)
            self.spend(back, self.table.switch_ma, "switch", point=safe)
        self.handle()
        return OK
