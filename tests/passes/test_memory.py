"""Planned memory: nothing overlaps, nothing is wasted, budgets hold or say what they lack."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqdkm_tvm import memory
from rqdkm_tvm.assign import choose, options
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

LIVES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 5)).map(lambda t: (t[0] * 8, t[1], t[1] + t[2])),
    max_size=25,
)


def _conflicts(lives: list[tuple[int, int, int]]) -> list[list[int]]:
    return [[j for j, b in enumerate(lives) if i != j and a[1] <= b[2] and b[1] <= a[2]] for i, a in enumerate(lives)]


@given(LIVES)
@settings(max_examples=200, deadline=None)
def test_packed_buffers_never_overlap_and_stay_below_the_sum(lives: list[tuple[int, int, int]]) -> None:
    sizes, conflicts = [size for size, _, _ in lives], _conflicts(lives)
    bound = max((sum(s for s, a, b in lives if a <= t <= b) for t in range(20)), default=0)
    offsets, peak = memory.pack(sizes, conflicts, bound)
    assert bound <= peak <= sum(sizes)
    assert peak == max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
    for i, j in itertools.combinations(range(len(sizes)), 2):
        if j in conflicts[i]:
            assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]


@given(LIVES)
@settings(max_examples=50, deadline=None)
def test_packing_is_reproducible(lives: list[tuple[int, int, int]]) -> None:
    sizes, conflicts = [size for size, _, _ in lives], _conflicts(lives)
    assert memory.pack(sizes, conflicts, 0) == memory.pack(sizes, conflicts, 0)


def _residual(blocks: int = 2) -> Any:
    x = g.conv2d(g.image(16, 16, 4), 8, s_out=0.05)
    for _ in range(blocks):
        y = g.conv2d(g.conv2d(x, 8, in_channels=8, s_out=0.05), 8, in_channels=8)
        x = relay.qnn.op.add(
            x, y, g.scale(0.05), g.zero(-128), g.scale(0.06), g.zero(-128), g.scale(0.05), g.zero(-128)
        )
    return prepare(g.module(g.average_pool(x, (16, 16))))


def test_timeline_counts_what_a_person_counts() -> None:
    line = memory.timeline(PartitionLayers()(_residual(1))["main"])
    maps = 16 * 16 * 8
    image = 16 * 16 * 4
    # first convolution; block: x+y1, x+y1+y2, x+y2+sum; pool
    assert line.live() == [image + maps, 2 * maps, 3 * maps, 3 * maps, maps + 8]


def test_usmp_arena_equals_the_most_that_is_alive_at_once() -> None:
    compiled = compile_model(_residual())
    assert compiled.memory.arena_bytes == compiled.memory.lower_bound_bytes == compiled.memory.peak.bytes
    assert compiled.aot.io_in_arena


def test_reference_kernels_need_no_more_than_the_tensors() -> None:
    compiled = compile_model(_residual(), kernel_set="reference")
    assert compiled.memory.arena_bytes == 3 * 16 * 16 * 8
    assert all(layer.lowered.scratch_bytes == 0 for layer in compiled.layers)


def test_a_larger_budget_never_costs_speed_and_is_never_exceeded() -> None:
    function = PartitionLayers()(_residual())["main"]
    line = memory.timeline(function)
    choices = {site.name: options(site.layer) for site in read_sites(function)}
    least = max(
        live + memory.aligned(min(o.scratch_bytes for o in choices[name]))
        for name, live in zip(line.steps, line.live(), strict=True)
    )
    cycles = []
    for budget in (least, least + 512, least + 2048, least + 65536):
        taken = choose(line, choices, ram_budget=budget)
        assert line.pack({name: option.scratch_bytes for name, option in taken.items()}) <= budget
        cycles.append(sum(option.cycles for option in taken.values()))
    assert cycles == sorted(cycles, reverse=True)


def test_compiled_model_holds_its_budget() -> None:
    tensors = 3 * 16 * 16 * 8
    for budget in (tensors, tensors + 600, 4 * tensors):
        assert compile_model(_residual(), ram_budget=budget).memory.arena_bytes <= budget


def test_budget_too_small_says_how_much_and_where() -> None:
    with pytest.raises(BudgetError) as caught:
        compile_model(_residual(1), ram_budget=4000)
    assert "4,224" in caught.value.what and "4,000" in caught.value.what
    assert "is the peak" in caught.value.where and "4,096 bytes of tensors" in caught.value.where
    least = compile_model(_residual(1), ram_budget=4224)
    assert least.memory.arena_bytes == 4224


def test_budget_counts_workspaces_of_operators_left_to_tvm() -> None:
    x = g.conv2d(g.image(16, 16, 4), 8)
    mod = prepare(g.module(g.max_pool(relay.transpose(x, (0, 2, 1, 3)))))
    compiled = compile_model(mod, ram_budget=2 * 16 * 16 * 8)
    assert compiled.memory.arena_bytes <= 2 * 16 * 16 * 8
