"""In-place layers: which operands may be overwritten, what the planner makes of it, and that no byte changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm.export import host, project
from rqdkm_tvm import in_place, memory
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.lower import LowerKernels
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

MAP = 8 * 8 * 16


def pointwise(x: Any, channels: int = 16, in_channels: int = 16) -> Any:
    return g.conv2d(x, channels, kernel=(1, 1), in_channels=in_channels, padding=(0, 0, 0, 0))


def depthwise(x: Any, channels: int = 16) -> Any:
    return g.conv2d(x, in_channels=channels, depthwise=True)


def separable(blocks: int = 2) -> Any:
    """A 3x3 convolution, blocks of depthwise and pointwise ones, a pooling: names conv2d, depthwise_conv2d, ..."""
    x = g.conv2d(g.image(8, 8, 4), 16)
    for _ in range(blocks):
        x = pointwise(depthwise(x))
    return g.average_pool(x, (8, 8))


def allowed(output: Any) -> dict[str, tuple[int, ...]]:
    function = PartitionLayers()(prepare(g.module(output)))["main"]
    return in_place.overwritable(function, {site.name for site in read_sites(function)})


def taken(compiled: CompiledModel) -> dict[str, int]:
    found = {layer.name: in_place.operand_of(layer.lowered.config) for layer in compiled.layers}
    return {name: operand for name, operand in found.items() if operand is not None}


# ---- what is legal


def test_an_operand_with_one_reader_may_be_overwritten_but_no_input_and_for_no_output() -> None:
    found = allowed(pointwise(depthwise(pointwise(g.image(8, 8, 16)))))
    # the first reads the model's input, the last writes its output
    assert found == {"conv2d": (), "depthwise_conv2d": (0,)}


def test_a_smaller_operand_is_not_overwritten() -> None:
    assert allowed(g.max_pool(pointwise(pointwise(g.image(8, 8, 16), 8), 16, 8)))["conv2d.1"] == ()


def test_an_operand_that_is_also_an_output_survives() -> None:
    x = pointwise(g.image(8, 8, 16))
    assert allowed(relay.Tuple([x, g.max_pool(pointwise(x))]))["conv2d.1"] == ()


def test_a_reader_that_might_run_later_forbids_it_for_both() -> None:
    x = pointwise(g.image(8, 8, 16))
    found = allowed(g.max_pool(g.add(pointwise(x), depthwise(x))))
    assert found["conv2d.1"] == found["depthwise_conv2d"] == ()
    assert found["add"] == (0, 1)  # what the two have written is read by the addition alone


def test_readers_that_are_ancestors_do_not_matter() -> None:
    x = pointwise(g.image(8, 8, 16))
    found = allowed(g.max_pool(g.add(x, pointwise(depthwise(x)))))
    assert found["depthwise_conv2d"] == () and found["conv2d.1"] == (0,)
    assert found["add"] == (0, 1)  # the depthwise convolution, x's other reader, runs before


def test_an_operand_read_twice_by_the_layer_itself_survives() -> None:
    x = pointwise(g.image(8, 8, 16))
    assert allowed(g.max_pool(g.add(x, x)))["add"] == ()


def test_readers_are_found_behind_reshapes() -> None:
    x = pointwise(g.image(8, 8, 16))
    other = g.dense(relay.reshape(x, (1, MAP)), features=MAP)
    pooled = relay.reshape(g.average_pool(depthwise(x), (8, 8)), (1, 16))
    assert allowed(relay.Tuple([other, pooled]))["depthwise_conv2d"] == ()


def test_what_tvm_writes_is_not_overwritten() -> None:
    x = relay.transpose(pointwise(g.image(8, 8, 16)), (0, 2, 1, 3))  # no kernel of ours
    assert allowed(g.max_pool(pointwise(x)))["conv2d.1"] == ()


# ---- what is planned


def test_separable_blocks_need_one_map_and_scratch() -> None:
    compiled = compile_model(prepare(g.module(separable())))
    assert taken(compiled) == dict.fromkeys(("depthwise_conv2d", "conv2d.1", "depthwise_conv2d.1", "conv2d.2"), 0)
    assert compiled.memory.arena_bytes == compiled.memory.lower_bound_bytes == compiled.memory.peak.bytes
    for moment in compiled.memory.moments[1:-1]:
        assert moment.tensors_bytes == MAP, moment.name


def test_the_generated_code_passes_the_same_address_twice() -> None:
    compiled = compile_model(prepare(g.module(separable(1))))
    text = "".join(compiled.aot.sources.values())
    offsets = [int(line.split("[")[1].split("]")[0]) for line in text.splitlines() if line.startswith("  void* sid_")]
    assert len(offsets) == 3 and len(set(offsets)) == 1  # two results lie where the first convolution's lies


def test_a_budget_that_only_in_place_layers_meet() -> None:
    budget = MAP + 896
    assert compile_model(prepare(g.module(separable())), ram_budget=budget).memory.arena_bytes <= budget < 2 * MAP


def test_a_plan_with_a_configuration_says_whether_it_is_in_place() -> None:
    mod = prepare(g.module(separable(1)))
    complete = compile_model(mod).plan
    again = compile_model(mod, plan=Plan.from_json(complete.to_json()))
    assert taken(again) == {"depthwise_conv2d": 0, "conv2d.1": 0}
    for entry in complete.layers:
        entry.config.pop(in_place.CONFIG, None)
    apart = compile_model(mod, plan=complete)
    assert not taken(apart)
    assert apart.memory.arena_bytes >= 2 * MAP


def test_plans_that_would_overwrite_what_must_survive_are_refused() -> None:
    mod = prepare(g.module(separable(1)))
    plan = compile_model(mod).plan
    entry = plan.get("conv2d")
    assert entry is not None
    for name, operand, said in (("conv2d", 0, "cannot write"), ("conv2d.1", 1, "cannot write")):
        changed = Plan.from_json(plan.to_json())
        edited = changed.get(name)
        assert edited is not None
        edited.config[in_place.CONFIG] = operand
        with pytest.raises(PlanError, match=said):
            compile_model(mod, plan=changed)
    mod = prepare(g.module(g.max_pool(pointwise(pointwise(g.image(8, 8, 16))))))
    config = {"pixels": 64, "resident": True, in_place.CONFIG: 0}
    changed = Plan([LayerPlan("conv2d", "conv2d", "conv2d_s8_gemm", config)])
    with pytest.raises(PlanError, match="may not be written over operand 0"):
        compile_model(mod, plan=changed)


def test_lowering_refuses_a_plan_that_nobody_checked() -> None:
    partitioned = PartitionLayers()(prepare(g.module(g.max_pool(pointwise(g.image(8, 8, 16))))))
    plan = Plan(
        [
            LayerPlan("conv2d", "conv2d", "conv2d_s8_gemm", {"pixels": 64, "resident": True, in_place.CONFIG: 0}),
            LayerPlan("max_pool2d", "max_pool2d", "max_pool2d_s8", {}),
        ]
    )
    with pytest.raises(PlanError, match="may not be written over"):
        LowerKernels(plan)(partitioned)


# ---- that no byte changes


def random_network(rng: np.random.Generator) -> Any:
    """Convolutions that can and cannot work in place, with branches that are added up again."""
    x = g.conv2d(g.image(8, 8, 4), 16)
    for _ in range(int(rng.integers(2, 6))):
        match int(rng.integers(5)):
            case 0:
                x = pointwise(x)
            case 1:
                x = depthwise(x)
            case 2:
                x = g.add(x, depthwise(pointwise(x)))
            case 3:
                x = g.add(pointwise(x), depthwise(x))
            case _:
                y = pointwise(x)
                x = g.add(g.add(y, depthwise(y)), x)
    return g.average_pool(x, (8, 8))


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_compute_the_same_bytes(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    mod = prepare(g.module(random_network(rng)))
    x = rng.integers(-128, 128, (8, 8, 8, 4), dtype=np.int8)

    def outputs(name: str, compiled: CompiledModel) -> Any:
        assert compiled.memory.arena_bytes == compiled.memory.peak.bytes
        project.write_project(compiled, tmp_path / name, name=name)
        return host.run(host.build_host_runner(tmp_path / name), [x])[0]

    shared = compile_model(mod)
    assert taken(shared), "nothing in place: the comparison is empty"
    with monkeypatch.context() as patch:
        patch.setattr(in_place, "overwritable", lambda *_: {})
        apart = compile_model(mod)
    assert not taken(apart)
    got, want = outputs("shared", shared), outputs("apart", apart)
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(want)) > 16


def test_buffers_that_share_their_place_begin_together_and_overlap_nothing_else() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        count = int(rng.integers(2, 16))
        lives = [
            (8 * int(rng.integers(1, 30)), first := int(rng.integers(12)), first + int(rng.integers(4)))
            for _ in range(count)
        ]
        shared = {i: int(rng.integers(i)) for i in range(1, count) if rng.integers(3) == 0}
        conflicts = [
            [j for j, b in enumerate(lives) if i != j and a[1] <= b[2] and b[1] <= a[2]] for i, a in enumerate(lives)
        ]
        sizes = [size for size, _, _ in lives]
        offsets, peak = memory.pack(sizes, conflicts, 0, shared)
        assert peak == max(o + s for o, s in zip(offsets, sizes, strict=True))
        group = list(range(count))
        for i in range(count):
            group[i] = group[shared[i]] if i in shared else i
            assert offsets[i] == offsets[group[i]]
        for i in range(count):
            for j in conflicts[i]:
                apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
                assert group[i] == group[j] or apart
