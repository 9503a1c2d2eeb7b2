"""Morphing layers in whole compiled models: every kernel, every switch, and alternatives that make no layer."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm import judge
from rqdkm.board import run as board_run
from rqdkm.export import host, project
from rqdkm.models import reference
from rqdkm_tvm import in_place
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import calls, composite_name, op_name
from rqdkm_tvm.morph.gather import FixKernel, GatherMorphs, select
from rqdkm_tvm.morph.library import library
from rqdkm_tvm.partition import PartitionLayers, refusals
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.dkm import library as morph_c
from tests.morph import networks
from tests.passes import graphs as g

KERNELS = range(len(networks.NAMES))


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return compile_model(networks.network())


@pytest.fixture(scope="module")
def written(model: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.write_project(model, tmp_path_factory.mktemp("morph") / "p", name="morph").path


def samples(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (count, 12, 12, 4)).astype(np.int8)


def expected(model: CompiledModel, kernel: int) -> np.ndarray:
    return reference.run_function(FixKernel(kernel)(model.quantized)["main"], [samples()])[0]


def test_kernels_are_named_and_counted(model: CompiledModel) -> None:
    layers = [layer.layer for layer in model.layers if layer.layer.library is not None]
    assert [layer.name for layer in layers] == ["morph_conv2d", "morph_conv2d_morph"]
    assert [tuple(path.name for path in layer.library.paths) for layer in layers] == [networks.NAMES] * 2  # type: ignore[union-attr]
    first = layers[0].library
    assert first is not None
    assert [path.macs for path in first.paths] == [144 * 64 * 9, 144 * 64 * 25, 144 * (72 + 64), 144 * 64 * 9, 144 * 64]
    assert model.layers[1].macs == first.paths[0].macs


def test_every_kernel_computes_the_fixed_network(model: CompiledModel, written: Path) -> None:
    seen = set()
    for kernel in KERNELS:
        wanted = expected(model, kernel)
        found = host.run(host.build_host_runner(written, kernel=kernel), [samples()])[0]
        assert np.array_equal(found.reshape(wanted.shape), wanted), networks.NAMES[kernel]
        seen.add(wanted.tobytes())
    assert len(seen) == len(KERNELS)
    safe = host.run(host.build_host_runner(written), [samples()])[0]
    assert safe.tobytes() == expected(model, 0).tobytes()


def test_before_it_is_gathered_tvm_computes_the_safe_kernel(model: CompiledModel) -> None:
    """TVM rounds its own way: a step or two apart, where other kernels give something else altogether."""
    graph = relay.create_executor("graph", mod=networks.network((2, 2)), target="llvm").evaluate()
    found = np.stack([graph(sample[None]).numpy().reshape(-1) for sample in samples(2)]).astype(int)
    apart = [np.abs(found - expected(model, kernel)[:2].reshape(found.shape)).max() for kernel in KERNELS]
    assert apart[2] <= 2 and min(apart[:2] + apart[3:]) > 20


@pytest.fixture(scope="module")
def shared(written: Path) -> ctypes.CDLL:
    """The model as a shared library, the sanitizer's traps in it."""
    listed = (written / "CMakeLists.txt").read_text().split("set(MODEL_SOURCES")[1].split(")")[0].split()
    extra = [f"tflm_ops/src/morph/{name}.c" for name in ("morph", "policy")] + ["tflm_ops/src/port/crc32.c"]
    target = written / "model.so"
    flags = ["-O1", "-std=gnu99", "-ffp-contract=off", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    includes = [f"-I{written / folder}" for folder in ("model", "tflm_ops/include", "tflm_ops/src")]
    root = Path(morph_c.tflm_ops_dir())
    paths = [written / name for name in listed] + [root / name.removeprefix("tflm_ops/") for name in extra]
    subprocess.run(
        ["gcc", "-w", "-shared", "-fPIC", *flags, *includes, *map(str, paths), "-lm", "-o", str(target)], check=True
    )
    found = ctypes.CDLL(str(target))
    for name in ("rqdkm_model_input", "rqdkm_model_output"):
        getattr(found, name).restype = ctypes.c_void_p
    return found


def test_each_frame_is_that_of_the_kernel_selected_before_it(model: CompiledModel, shared: ctypes.CDLL) -> None:
    """One image, kernels switched between frames in every order; nothing of one frame is left in the next."""
    by_kernel = [expected(model, kernel) for kernel in KERNELS]
    morph, kernel = morph_c.Morph(), ctypes.c_int32(0)
    fixed = ctypes.cast(shared.rqdkm_dispatch_fixed, ctypes.c_void_p)
    context = ctypes.cast(ctypes.pointer(kernel), ctypes.c_void_p)
    shared.rqdkm_morph_init.argtypes = morph_c.load().rqdkm_morph_init.argtypes
    shared.rqdkm_morph_init(ctypes.byref(morph), len(KERNELS), 0, fixed, context)
    state = morph_c.State(0.1, 0.1, 168e6, 0.5, 0.0, 100.0, 3.0)

    def run(sample: int) -> bytes:
        ctypes.memmove(shared.rqdkm_model_input(0), samples()[sample].tobytes(), samples()[sample].size)
        assert shared.rqdkm_model_run() == 0
        return ctypes.string_at(shared.rqdkm_model_output(0), by_kernel[0][0].size)

    shared.rqdkm_set_morph(None)
    assert run(0) == by_kernel[0][0].tobytes()  # the safe one
    shared.rqdkm_set_morph(ctypes.byref(morph))
    order = [k for a in KERNELS for b in KERNELS for k in (a, b)]
    for step, chosen in enumerate([*order, 7, -1]):
        kernel.value = chosen
        taken = shared.rqdkm_morph_select(ctypes.byref(morph), ctypes.byref(state))
        assert taken == (chosen if chosen in KERNELS else 0)
        assert run(step % 5) == by_kernel[taken][step % 5].tobytes(), (step, chosen)
    assert morph.fallbacks == 2
    shared.rqdkm_set_morph(None)


@pytest.mark.slow
def test_the_boards_compute_every_kernel_within_the_planned_arena(model: CompiledModel, written: Path) -> None:
    cycles = []
    for kernel in KERNELS:
        elf = project.build(written, kernel=kernel)
        ran = board_run.run_samples(elf, "virtual", judge.by_sample([samples(2)]))
        wanted = expected(model, kernel)[:2]
        assert np.array_equal(np.stack([sample[0] for sample in ran.outputs]).reshape(wanted.shape), wanted)
        assert ran.arena_bytes <= model.memory.arena_bytes
        assert ran.cycles
        cycles.append(sum(ran.cycles))
    assert cycles[4] < cycles[2] < cycles[0] < cycles[1]  # 1x1, separable, 3x3, 5x5


def test_one_scratch_serves_all_kernels_and_less_of_it_is_slower(model: CompiledModel) -> None:
    from rqdkm_tvm.kernels import registry

    layer = model.layers[1].layer
    kernel = registry.get("morph_conv2d")
    for over in (False, True):
        configs = [config for config in kernel.configs(layer) if bool(config.get("over")) == over]
        sizes = [kernel.scratch_bytes(layer, config) for config in configs]
        cycles = [kernel.estimate_cycles(layer, config) for config in configs]
        assert sizes == sorted(sizes, reverse=True) and cycles == sorted(cycles)
        assert all(kernel.in_place(layer, config) == ((0,) if over else ()) for config in configs)
        assert over or len(configs) > 1


def test_the_result_lies_over_the_input_where_every_kernel_can(tmp_path: Path) -> None:
    found = compile_model(networks.strided())
    chosen = found.layers[1].lowered.config
    assert chosen["over"] and chosen[in_place.CONFIG] == 0
    [moment] = [moment for moment in found.memory.moments if moment.name == "morph_conv2d"]
    assert moment.tensors_bytes == 12 * 12 * 16  # the input alone, as large as four results
    written = project.write_project(found, tmp_path / "p", name="over").path
    for kernel in KERNELS:
        wanted = expected(found, kernel)
        got = host.run(host.build_host_runner(written, kernel=kernel), [samples()])[0]
        assert np.array_equal(got.reshape(wanted.shape), wanted), networks.NAMES[kernel]


def test_the_plan_names_the_layer_and_is_followed(model: CompiledModel) -> None:
    plan = Plan.from_json(model.plan.to_json())
    kernels = {entry.name: entry.kernel for entry in plan.layers}
    assert kernels["morph_conv2d"] == "morph_conv2d" and list(kernels.values()).count("morphed") == 12
    again = compile_model(networks.network(), plan=plan)
    assert again.layers_source == model.layers_source
    nonsense = Plan([LayerPlan("nowhere", "morph_conv2d", "morph_conv2d")])
    with pytest.raises(PlanError, match='no layer "nowhere"'):
        compile_model(networks.network(), plan=nonsense)


# ---- alternatives that make no layer


def gathered(output: Any) -> Any:
    return GatherMorphs()(PartitionLayers()(prepare(g.module(output))))["main"]


def test_kernels_that_cannot_be_gathered_are_computed_by_tvm_and_reported() -> None:
    g.reseed()
    x = g.image(8, 8, 4)
    one, other = g.conv2d(x, 8), g.conv2d(g.image(8, 8, 4, "y"), 8)
    read_twice = g.conv2d(x, 8)
    cases = {
        "do not read one tensor": select([one, other], 0),
        "is read elsewhere": relay.Tuple([select([one, read_twice], 0), read_twice]),
        "no kernel of ours runs": select([one, relay.clip(relay.negative(g.conv2d(x, 8)), -128, 127)], 0),
    }
    for reason, output in cases.items():
        main = gathered(output)
        assert all(composite_name(call) != "rqdkm.morph_conv2d" for call in calls(main))
        assert any(op_name(call) == "take" for call in calls(main))
        assert any(reason in text for text in refusals(main).values()), (reason, refusals(main))


def test_kernels_of_other_formats_are_refused() -> None:
    g.reseed()
    x = g.image(8, 8, 4)
    with pytest.raises(PlanError, match="differ in the shape or quantization"):
        gathered(select([g.conv2d(x, 8, s_out=0.06), g.conv2d(x, 8, s_out=0.07)], 0))
    layers = [site.layer for site in read_sites(gathered(g.conv2d(x, 8)))]
    with pytest.raises(PlanError, match="6 kernels"):
        library([layers] * 6, 0, where="here")
