"""The cost table of a real graph."""

from __future__ import annotations

import dataclasses

from rqdkm_tvm import memory
from rqdkm_tvm.assign import MEMORY_PRICES, Prices, choose, options
from rqdkm_tvm.bitwidths import Budgets, exact, items_of, totals
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.sensitivity.costs import costs_of, estimated_cycles, other_constants, scratch_room
from rqdkm_tvm.sensitivity.table import LayerSensitivity, Sensitivity
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs

BITS = (2, 4, 8)


def test_at_8_bits_it_is_the_timeline_and_the_weights() -> None:
    first = graphs.conv2d(graphs.image(), 8)
    second = graphs.conv2d(first, 8, in_channels=8)
    out = graphs.dense(relay.reshape(graphs.average_pool(second, (8, 8)), (1, 8)), 5, features=8)
    function = PartitionLayers()(prepare(graphs.module(out)))["main"]
    costs = costs_of(function, scratch={"conv2d": 100}, cycles=lambda layer, w, a: 1000.0 * w + a)
    names = [x.name for x in costs.layers]
    errors = {b: (4.0**-b,) * 8 for b in BITS}
    rows = tuple(
        LayerSensitivity(n, "", errors if "pool" not in n else {}, errors, tied_to=names[1] if "pool" in n else "")
        for n in names
    )
    items = items_of(Sensitivity("rep", "", 1.0, 1, rows), costs)
    at_8 = exact(items, costs, Budgets()).totals
    timeline = memory.timeline(function)
    assert at_8.ram == max(m.bytes for m in timeline.moments({"conv2d": 100}))
    assert at_8.flash == 3 * 3 * 4 * 8 + 3 * 3 * 8 * 8 + 8 * 5
    least = totals(items, [0] * len(items), costs)
    assert least.flash == at_8.flash / 4
    assert least.ram < at_8.ram
    # the result of the model stays as it is, the input too
    assert costs.layers[-1].ram == {}
    assert at_8.cycles > least.cycles > 0


def test_constants_besides_weights_are_there_at_every_width() -> None:
    """Per channel a bias, a multiplier and a shift; a byte of padding is no weight either."""
    function = PartitionLayers()(prepare(graphs.module(graphs.conv2d(graphs.image(), 8))))["main"]
    layer = read_sites(function)[0].layer
    others = other_constants(layer)
    assert 8 * 12 <= others <= 8 * 16
    narrow = dataclasses.replace(layer, weights=layer.weights >> 4, weight_bits=(4,) * 8)
    assert (
        min(
            kernel.constant_bytes(narrow, config)
            for kernel in registry.able(narrow)
            for config in kernel.configs(narrow)[-1:]
        )
        >= others + layer.weights.size // 2
    )
    costs = costs_of(function, fixed_flash=others)
    assert totals([], [], costs).flash == others


def test_cycles_are_those_of_a_kernel_that_fits_and_not_of_the_fastest() -> None:
    function = PartitionLayers()(prepare(graphs.module(graphs.conv2d(graphs.image(), 8))))["main"]
    layer = read_sites(function)[0].layer
    able = [
        (kernel.scratch_bytes(layer, c), kernel.constant_bytes(layer, c), kernel.estimate_cycles(layer, c))
        for kernel, c in registry.candidates(layer)
    ]
    fastest = min(cycles for _, _, cycles in able)
    assert estimated_cycles()(layer, 8, 8) == fastest
    for room in sorted({scratch for scratch, _, _ in able}):
        fitting = [cycles for scratch, _, cycles in able if scratch <= room]
        assert estimated_cycles(room={layer.name: room})(layer, 8, 8) == min(fitting)
    assert estimated_cycles(room={layer.name: min(s for s, _, _ in able)})(layer, 8, 8) > fastest
    # no room at all: the kernel of least scratch
    assert estimated_cycles(room={layer.name: -1})(layer, 8, 8) == min(
        cycles for scratch, _, cycles in able if scratch == min(s for s, _, _ in able)
    )
    # constants that do not pay are not bought: the kernel with the fewest, its fastest form
    dear = estimated_cycles(flash_price=1e9)(layer, 8, 8)
    assert dear == min(cycles for _, constants, cycles in able if constants == min(c for _, c, _ in able))


def test_the_room_for_scratch_is_what_the_prices_leave() -> None:
    first = graphs.conv2d(graphs.image(), 8)
    function = PartitionLayers()(prepare(graphs.module(graphs.conv2d(first, 8, in_channels=8))))["main"]
    timeline = memory.timeline(function)
    live = dict(zip(timeline.steps, timeline.live(), strict=True))
    choices = {site.name: options(site.layer) for site in read_sites(function)}
    for prices in (MEMORY_PRICES, Prices(0.0, 0.0)):
        room = scratch_room(function, prices=prices)
        taken = choose(timeline, choices, prices=prices)
        assert all(option.ram_bytes <= room[name] for name, option in taken.items())
        assert any(option.ram_bytes == room[name] for name, option in taken.items())
    assert scratch_room(function, ram_budget=4000, prices=MEMORY_PRICES) == {
        name: max(4000 - live[name], 0) for name in choices
    }
