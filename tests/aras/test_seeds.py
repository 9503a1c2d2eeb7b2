"""Many traces of a kind: what is averaged, what is summed, and what the verdicts make of it."""

from __future__ import annotations

import pytest

from rqdkm.aras import comparison, energy, seeds
from rqdkm.aras.seeds import Kind, Sample
from rqdkm.aras.table import Task
from tests.aras.boards import WORKLOAD


def made(aras: float, *, missed: int = 0) -> Sample:
    """Race to sleep takes 10 mJ, race to stop 9, the oracle 8, the floor 7."""
    energies = dict.fromkeys(seeds.NAMES, 10.0) | {"stop": 9.0, "aras": aras, seeds.TOLD: aras, "oracle": 8.0}
    return Sample(
        frames=100,
        missed=dict.fromkeys(seeds.NAMES, 0) | {"aras": missed},
        late=dict.fromkeys(seeds.NAMES, 0),
        energy_mj=energies,
        states_mj={name: (x, 0.0, 0.0, 0.0) for name, x in energies.items()},
        calls_mj=dict.fromkeys(seeds.NAMES, 0.1),
        floor_mj=7.0,
    )


def test_an_interval_is_students() -> None:
    found = seeds.mean([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2) and found.half == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert str(found) == "20.0 ± 24.8" and seeds.mean([0.5]).half == 0.0


def test_savings_are_means_over_traces_and_misses_are_summed() -> None:
    kind = Kind("step", (made(8.0, missed=1), made(9.0, missed=2)))
    assert (kind.frames, kind.missed("aras"), kind.missed("oracle")) == (200, 3, 0)
    assert kind.saving("aras", "sleep").value == pytest.approx(0.15)
    assert kind.bound("sleep").value == pytest.approx(0.3)
    assert kind.above_oracle().value == pytest.approx((0 + 0.125) / 2)
    row = next(line for line in seeds.table([kind]).splitlines() if "race to sleep" in line)
    assert row == "| step | race to sleep | 200 | 0 | 0 | 10.000 | 15.0 ± 63.5 | 20.0 ± 0.0 | 30.0 ± 0.0 |"


@pytest.mark.parametrize(
    ("kind", "sample", "met"),
    [
        ("step", made(8.2), (True, True)),
        ("step", made(8.6), (False, True)),
        ("step", made(8.2, missed=1), (True, False)),
        ("adversarial", made(9.9, missed=1), (True,)),
        ("adversarial", made(9.9, missed=2), (False,)),
    ],
)
def test_a_kind_is_judged_by_its_misses_and_by_its_distance_to_the_oracle(
    kind: str, sample: Sample, met: tuple[bool, ...]
) -> None:
    found = comparison.judged(Kind(kind, (sample, sample)))
    assert tuple(sorted(v.met for v in found)) == tuple(sorted(met))


def test_a_sample_adds_up_and_is_the_same_in_another_process() -> None:
    currents = energy.read()
    found = {kind.name: kind.samples for kind in seeds.run(currents, WORKLOAD, Task(), first=7, count=1, frames=4)}
    again = seeds.sample("periodic", 7, 4, True, currents, WORKLOAD, Task())
    assert found["periodic"] == (again,) and len(found) == 4
    for name, parts in again.states_mj.items():
        assert sum(parts) == pytest.approx(again.energy_mj[name]), name
    assert again.floor_mj <= again.energy_mj["oracle"] <= again.energy_mj["aras"] < again.energy_mj["sleep"]
