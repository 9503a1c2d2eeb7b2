"""ARAS with DKM: what DKM is told does not depend on what ARAS does, and neither of the two swings."""

from __future__ import annotations

import pytest

from rqdkm.aras import cooperate
from rqdkm.aras.library import Aras
from tests.aras.boards import CYCLES, Scripted, built

KERNELS = [round(CYCLES * k) for k in cooperate.KERNELS]


@pytest.mark.parametrize("can_stop", [True, False])
def test_neither_kernel_nor_clock_swings_while_the_load_holds(can_stop: bool) -> None:
    table = built(worst=1.05 * max(cooperate.KERNELS))
    found = cooperate.run(
        table, KERNELS, cooperate.by_rule(KERNELS), coupled=False, frames=800, held=40, can_stop=can_stop
    )
    assert found.frames > 500 and found.missed == 0
    assert len(set(found.kernels)) > 1  # it does react to the load
    assert found.kernel_cycles == 0 and found.clock_cycles == 0


def test_what_dkm_is_told_is_the_same_at_every_clock() -> None:
    states = []
    for point in range(6):
        board = Scripted()
        aras = Aras(built(), board)
        aras.set_memory(30_000, 120_000)
        aras.request(point)
        states.append(aras.morph_state(KERNELS[0], 90_000))
    assert len(set(states)) == 1
    load, memory, clock, slack = states[0]
    assert (load, memory, clock) == (0.0, 0.75, 168e6)
    assert slack == pytest.approx(1 - KERNELS[0] / 168 / 90_000, abs=1e-4)


def test_a_chip_that_lost_its_clock_says_so() -> None:
    board = Scripted()
    aras = Aras(built(), board)
    board.dead_pll = True
    aras.begin(90_000)
    aras.request(1)
    aras.end()
    _, _, clock, slack = aras.morph_state(KERNELS[0], 90_000)
    assert clock == 16e6 and slack == pytest.approx(90_000 / (KERNELS[0] / 16) - 1, abs=1e-4)
