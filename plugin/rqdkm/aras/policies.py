"""Who decides: ARAS, the governors that it is compared with, and how a chip is run by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rqdkm.aras.chip import Chip
from rqdkm.aras.library import Aras
from rqdkm.aras.traces import Arrival


class Governor:
    """The simplest: the fastest clock, asleep when there is nothing to do."""

    name = "always 168 MHz"

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def begin(self, frame: Arrival) -> Arrival:
        """A frame is about to be computed. Returns what is computed: another kernel may take other cycles."""
        return frame

    def tick(self) -> None:
        """Time has passed within it."""

    def end(self) -> None:
        """It is finished."""

    def idle(self, until_us: int, can_stop: bool, surprised: bool) -> None:
        """There is nothing to do until then, unless the rest or, if ``surprised``, a frame comes earlier."""
        self.chip.sleep(until_us)


class RaceToSleep(Governor):
    """168 MHz whenever there is work, of the rest too; asleep on the internal oscillator, PLL off, when not."""

    name = "race to sleep"

    def idle(self, until_us: int, can_stop: bool, surprised: bool) -> None:
        self.chip.doze(until_us)


class RaceToStop(RaceToSleep):
    """The same with stop mode, where peripherals allow it."""

    name = "race to stop"

    def idle(self, until_us: int, can_stop: bool, surprised: bool) -> None:
        if can_stop:
            self.chip.stop(until_us)
        else:
            super().idle(until_us, can_stop, surprised)


class OnDemand(Governor):
    """Reactive, as Linux's ``ondemand``: every 10 ms the load of the time since decides. Above 80 % the fastest clock;
    else the slowest one not below ``lowest + load x (fastest - lowest)``. Asleep at its clock when there is nothing to
    do; its timer wakes the core up for that (Linux's is deferrable, and leaves an idle core at a fast clock)."""

    name = "on demand"
    period_us, threshold, cycles = 10_000.0, 0.8, 200

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self._since = chip.t
        self._awake = self._awake_us()

    def _awake_us(self) -> float:
        time = self.chip.tally.time_us
        return sum(time[kind] for kind in ("inference", "rest", "control", "switch"))

    def _sample(self) -> None:
        chip = self.chip
        if chip.t - self._since < self.period_us:
            return
        load = (self._awake_us() - self._awake) / (chip.t - self._since)
        fastest, lowest = chip.mhz[0], min(chip.mhz)
        wanted = fastest if load > self.threshold else lowest + load * (fastest - lowest)
        chip.control(self.cycles)
        chip.set_clock(max(p for p, mhz in enumerate(chip.mhz) if mhz >= wanted - 1e-9))
        self._since, self._awake = chip.t, self._awake_us()

    def tick(self) -> None:
        self._sample()

    def end(self) -> None:
        self._sample()

    def idle(self, until_us: int, can_stop: bool, surprised: bool) -> None:
        self.chip.sleep(min(until_us, int(self._since + self.period_us) + 1))
        self._sample()


@dataclass(frozen=True)
class Cost:
    """Cycles of calls of the C library, means of the four traces on the virtual board: of a call that begins or ends a
    frame or waits (2,040 to 2,490, with what it decides there and not here: the board decides more often), of a
    decision (660 to 1,400), of a tick without what it decides (125 to 172), and of its interrupt's entry and exit."""

    call: int = 2310
    decision: int = 1170
    tick: int = 158
    interrupt: int = 22


class ArasGovernor(Governor):
    """The C library, as on the chip."""

    name = "ARAS"

    def __init__(self, chip: Chip, cost: Cost = Cost()) -> None:
        super().__init__(chip)
        self.cost = cost
        self.aras = Aras(chip.table, chip)
        chip.rest_begin, chip.rest_end, chip.tick = self.aras.rest_begin, self.aras.rest_end, self.aras.tick

    def _call(self, cycles: int, call: Callable[[], object]) -> None:
        before = self.aras.decisions
        call()
        self.chip.control(cycles + (self.aras.decisions - before) * self.cost.decision)

    def begin(self, frame: Arrival) -> Arrival:
        self._call(self.cost.call, lambda: self.aras.begin(frame.time_us + frame.limit_us, frame.announced))
        return frame

    def tick(self) -> None:
        self._call(self.cost.tick + self.cost.interrupt, self.aras.tick)

    def end(self) -> None:
        self._call(self.cost.call, self.aras.end)

    def idle(self, until_us: int, can_stop: bool, surprised: bool) -> None:
        self._call(self.cost.call, lambda: self.aras.idle(until_us, can_stop, surprised))


class FreeArasGovernor(ArasGovernor):
    """The same, if its calls and its ticks took no time: what is left is the price of what it does not know."""

    name = "ARAS, calls free"

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip, Cost(call=0, decision=0, tick=0, interrupt=0))


GOVERNORS: dict[str, type[Governor]] = {
    "always": Governor,
    "ondemand": OnDemand,
    "sleep": RaceToSleep,
    "stop": RaceToStop,
    "aras": ArasGovernor,
}
