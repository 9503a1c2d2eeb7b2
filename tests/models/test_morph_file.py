"""Model files with morphing layers: what is read, quantized and compiled, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm import judge
from rqdkm.board import run as board_run
from rqdkm.export import host, project
from rqdkm.models import (
    custom_options,
    data,
    float_run,
    load,
    morph_file,
    oracle,
    quantize,
    reference,
    summary,
    tflite_read,
    tflite_write,
)
from rqdkm.models.graph import CUSTOM, SELECT, Operator, TensorInfo, compact
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import ModelError
from rqdkm_tvm.morph.gather import FixKernel
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from rqdkm_tvm.sites import read_sites
from tests.models import morphs

KERNELS = range(len(morphs.NAMES))
PATH = Path("morph.tflite")


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(morphs.int8_model().module)


@pytest.fixture(scope="module")
def written(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.write_project(compiled, tmp_path_factory.mktemp("file") / "p", name="morph").path


def inputs(count: int = 6) -> list[Any]:
    return data.random_inputs(morphs.int8_model(), count, seed=0)


def fixed_network(kernel: int) -> bytes:
    """The network that has one kernel and no morphing layers, as an ordinary file."""
    return tflite_write.write_graph(compact(morph_file.without_selects(morphs.int8_model().graph, kernel)))


def test_a_file_is_read_as_it_was_written() -> None:
    graph = morphs.float_graph()
    again = morph_file.expand(tflite_read.read_graph(morphs.float_file(), "a", "test"), "a")
    assert [op.op for op in again.operators] == [op.op for op in graph.operators]
    for old, new in zip(graph.operators, again.operators, strict=True):
        assert {k: v for k, v in old.attrs.items() if k != CUSTOM} == {
            k: new.attrs[k] for k in old.attrs if k != CUSTOM
        }
        assert [graph.tensors[i].shape for i in old.outputs] == [again.tensors[i].shape for i in new.outputs]
        for i, j in zip(old.inputs, new.inputs, strict=False):
            if graph.tensors[i].data is not None:
                assert np.array_equal(graph.tensors[i].data, again.tensors[j].data)  # type: ignore[arg-type]
    assert tflite_write.write_graph(morph_file.fold(again)) == morphs.float_file()


def test_an_int8_file_keeps_every_scale() -> None:
    first = morphs.int8_model()
    assert first.is_quantized and first.file() == morphs.int8_file()
    results = [first.graph.tensors[i] for op in first.graph.operators if op.op == SELECT for i in op.inputs]
    one = {(t.quantization.scale, t.quantization.zero_point) for t in results[:5] if t.quantization is not None}
    assert len(results) == 10 and len(one) == 1


def test_kernels_are_named_and_the_safe_one_counts(compiled: CompiledModel) -> None:
    layers = {x.layer.name: x.layer.library for x in compiled.layers if x.layer.library is not None}
    assert list(layers) == ["one", "two"]
    assert [path.name for path in layers["one"].paths] == list(morphs.NAMES)
    assert [library.safe for library in layers.values()] == [0, 2]
    whole = summary.summarize_graph(morphs.int8_model().graph, PATH)
    others = [x.macs for x in whole.layers if x.name in ("first", "dense")]
    assert whole.macs == sum(others) + layers["one"].paths[0].macs + layers["two"].paths[2].macs


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_the_network_that_has_only_it(kernel: int, compiled: CompiledModel, written: Path) -> None:
    """TFLite's own kernels judge: NumPy's interpreter and the firmware's C give their bytes."""
    wanted = oracle.reference_outputs(fixed_network(kernel), inputs())[0]
    numpy = reference.run_function(FixKernel(kernel)(compiled.quantized)["main"], inputs())[0]
    firmware = host.run(host.build_host_runner(written, kernel=kernel), inputs())[0]
    assert np.array_equal(wanted, numpy.reshape(wanted.shape))
    assert np.array_equal(wanted, firmware.reshape(wanted.shape))
    others = [oracle.reference_outputs(fixed_network(k), inputs())[0] for k in KERNELS if k != kernel]
    assert all(not np.array_equal(wanted, other) for other in others)


@pytest.mark.slow
def test_the_virtual_board_gives_the_bytes_of_every_kernel(written: Path) -> None:
    for kernel in KERNELS:
        ran = board_run.run_samples(project.build(written, kernel=kernel), "virtual", judge.by_sample(inputs(2)))
        wanted = oracle.reference_outputs(fixed_network(kernel), inputs(2))[0]
        assert np.array_equal(np.stack([sample[0] for sample in ran.outputs]).reshape(wanted.shape), wanted)


def test_unless_one_is_selected_the_safe_kernels_run(written: Path) -> None:
    """Kernel 0 in one layer, 2 in the other: what the model's own reference file has, too."""
    wanted = oracle.reference_outputs(morphs.int8_model(), inputs())[0]
    found = host.run(host.build_host_runner(written), inputs())[0]
    graph = reference.run_graph(morphs.int8_model().graph, inputs())
    assert np.array_equal(found.reshape(wanted.shape), wanted)
    assert np.array_equal(next(iter(graph.values())), wanted)
    assert all(not np.array_equal(wanted, oracle.reference_outputs(fixed_network(k), inputs())[0]) for k in KERNELS)


def packed() -> CompiledModel:
    """A map of 4 bits into the first layer, one inside a kernel of it, and weights of 4 bits in all of its kernels."""
    sites = {
        site.name: site.layer for site in read_sites(PartitionLayers()(prepare(morphs.int8_model().module))["main"])
    }
    ours = [name for name in sites if name.startswith("one/")]
    plan = []
    for name in ["first", *ours]:
        layer = sites[name]
        narrow = OutputPlan(4, layer.output.scale * 16, -8) if name in ("first", "one/2.0") else None
        plan.append(LayerPlan(name, layer.op, weights=((4, 6),) if layer.op == "conv2d" else (), output=narrow))
    return compile_model(morphs.int8_model().module, plan=Plan(plan))


def test_maps_and_weights_of_few_bits_reach_the_kernels(tmp_path: Path) -> None:
    model = packed()
    (layer,) = [x.layer for x in model.layers if x.layer.name == "one"]
    assert layer.library is not None and layer.inputs[0].bits == 4
    assert {path.layers[0].inputs[0].bits for path in layer.library.paths} == {4}
    project_dir = project.write_project(model, tmp_path / "p", name="morph").path
    for kernel in (1, 2):
        wanted = reference.run_function(FixKernel(kernel)(model.quantized)["main"], inputs())[0]
        found = host.run(host.build_host_runner(project_dir, kernel=kernel), inputs())[0]
        assert np.array_equal(found.reshape(wanted.shape), wanted)


def test_float_ends_are_left_to_the_host() -> None:
    """QUANTIZE and DEQUANTIZE around an int8 core with morphing layers."""
    graph = morphs.int8_model().graph
    (source,), (result,) = graph.inputs, graph.outputs
    ends = [TensorInfo(name, graph.tensors[i].shape, "float32") for name, i in (("x", source), ("y", result))]
    first, last = len(graph.tensors), len(graph.tensors) + 1
    operators = (
        Operator("QUANTIZE", (first,), (source,)),
        *graph.operators,
        Operator("DEQUANTIZE", (result,), (last,)),
    )
    whole = replace(graph, tensors=(*graph.tensors, *ends), operators=operators, inputs=(first,), outputs=(last,))
    model = load.load_tflite(tflite_write.write_graph(morph_file.fold(whole)), PATH)
    assert (model.file_inputs[0].dtype, model.inputs[0].dtype, model.outputs[0].dtype) == ("float32", "int8", "int8")
    wanted = oracle.reference_outputs(morphs.int8_model(), inputs())
    assert np.array_equal(oracle.reference_outputs(model, inputs())[0], wanted[0])


# ---- quantization


def test_scales_hold_what_every_kernel_gives_here_and_behind() -> None:
    """Kernel 1 of the first layer, which is not the safe one, made ten times louder."""
    model = load.load_tflite(morphs.float_file(10.0), PATH)
    found = quantize.quantize_and_compare(model, morphs.samples())
    by_name = {layer.name: layer for layer in found.layers}
    plain = quantize.quantize_and_compare(load.load_tflite(morphs.float_file(), PATH), morphs.samples())
    before = {layer.name: layer for layer in plain.layers}
    assert by_name["one"].scale > 5 * before["one"].scale
    assert by_name["two"].scale > 3 * before["two"].scale  # what the loud kernel makes of the layer behind
    assert max(layer.clipped for layer in found.layers) < 0.01
    assert len(found.kernels) == len(KERNELS) and min(plain.kernels) > 0.8


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_the_other_methods_see_every_kernel_too(method: str) -> None:
    model = load.load_tflite(morphs.float_file(), PATH)
    found = quantize.quantize_and_compare(model, morphs.samples(), method)
    assert min(layer.sqnr_db for layer in found.layers) > 15


def test_a_kernel_is_judged_by_the_network_that_has_only_it() -> None:
    graph = load.load_tflite(morphs.float_file(), PATH).graph
    x = [np.asarray(morphs.samples(3).inputs[0])]
    found = [float_run.run_float(morph_file.fixed(graph, k), x)[0] for k in KERNELS]
    plain = [float_run.run_float(morph_file.without_selects(graph, k), x)[0] for k in KERNELS]
    assert all(np.array_equal(a, b) for a, b in zip(found, plain, strict=True))
    assert len({a.tobytes() for a in found}) == len(KERNELS)


# ---- files that are refused

Change = Callable[[dict[str, Any]], Any]
BAD: dict[str, tuple[str, Change]] = {
    "no kernels": ("it has no kernels", lambda o: o.update(kernels=[])),
    "six": ("6 kernels, at most 5", lambda o: o.update(kernels=[1] * 6)),
    "empty kernel": ("a kernel cannot have 0 layers", lambda o: o.update(kernels=[2, 1, 2, 1, 0])),
    "missing": ('option "ops" is missing', lambda o: o.pop("ops")),
    "foreign": ('option "tile" does not belong', lambda o: o.update(tile=[1, 1, 0])),
    "unsafe": ("its safe kernel 5 does not exist", lambda o: o.update(safe=5)),
    "short": ('option "strides" has 11 values, 12 are needed', lambda o: o["strides"].pop()),
    "operator": (r'option "ops" has a value that cannot be: \[2\]', lambda o: o["ops"].__setitem__(0, 2)),
    "stride": (r'"strides" has a value that cannot be: \[0\]', lambda o: o["strides"].__setitem__(0, 0)),
    "activation": (r'"activations" has a value that cannot be: \[4\]', lambda o: o["activations"].__setitem__(1, 4)),
    "scale": ("scale of an inner result is not a positive number", lambda o: o.update(inner_scales=[-1])),
    "zero point": (r'"inner_zeros" has a value that cannot be: \[200\]', lambda o: o.update(inner_zeros=[200])),
    "no list": ('option "valid" is no list', lambda o: o.update(valid=0)),
    "code": ("it is generated code of rqdkm tflm export", lambda o: o.update(code=1)),
    "more layers": ("it has 13 inputs, its 7 layers need 15", lambda o: _longer(o)),
    "another size": (
        r"kernel 1 gives \(1, 5, 10, 6\), the layer \(1, 9, 10, 6\)",
        lambda o: o["strides"].__setitem__(2, 2),
    ),
}


def _longer(options: dict[str, Any]) -> None:
    options.update(kernels=[2, 1, 2, 1, 1])
    for key in ("ops", "valid", "activations"):
        options[key].append(0)
    options["strides"] += [1, 1]
    options["dilations"] += [1, 1]
    options["inner_scales"] += options["inner_scales"]
    options["inner_zeros"] += options["inner_zeros"]


@pytest.mark.parametrize("name", BAD)
def test_options_that_cannot_be_are_one_error_that_names_the_layer(name: str) -> None:
    message, change = BAD[name]
    with pytest.raises(ModelError, match=message) as found:
        load.load_tflite(morphs.changed(morphs.int8_file(), change), PATH)
    assert found.value.where.startswith("morph.tflite: layer 'one'") and found.value.hint


def test_weights_that_do_not_fit_are_refused() -> None:
    def swap(wired: list[int]) -> None:
        wired[1], wired[2] = wired[2], wired[1]

    with pytest.raises(ModelError, match="weights of kernel 0, layer 0 do not have 4 dimensions"):
        load.load_tflite(morphs.changed(morphs.int8_file(), lambda _o: None, swap), PATH)

    def drop(wired: list[int]) -> None:
        wired[1] = -1

    with pytest.raises(ModelError, match="kernel 0, layer 0 has no weights"):
        load.load_tflite(morphs.changed(morphs.int8_file(), lambda _o: None, drop), PATH)

    def other(wired: list[int]) -> None:
        wired[1] = wired[5]  # depthwise weights in a convolution

    with pytest.raises(ModelError, match=r"layer 'one/0\.0'"):
        load.load_tflite(morphs.changed(morphs.int8_file(), lambda _o: None, other), PATH)


def test_damaged_options_never_are_a_traceback() -> None:
    """Every byte of the options changed in turn: read, or refused with a message that names the layer or its tensor."""
    graph = tflite_read.read_graph(morphs.int8_file(), "m")
    place = next(i for i, op in enumerate(graph.operators) if op.op == morph_file.named(morph_file.OP))
    operator = graph.operators[place]
    options, refused = operator.attrs[CUSTOM], 0
    rng = np.random.default_rng(0)
    for at in range(len(options)):
        damaged = bytearray(options)
        damaged[at] ^= int(rng.integers(1, 256))
        bad = replace(operator, attrs={CUSTOM: bytes(damaged)})
        try:
            morph_file.expand(replace(graph, operators=(*graph.operators[:place], bad)), "m")
        except ModelError as error:
            refused += 1
            assert "one" in error.where
    assert refused > len(options) // 2


def test_a_file_of_the_export_is_told_from_a_model() -> None:
    with pytest.raises(ValueError, match="unknown option"):
        custom_options.decode(_with_key("nonsense"))
    with pytest.raises(ValueError, match="no map"):
        custom_options.decode(b"\x01\x04\x01")
    with pytest.raises(ValueError):
        custom_options.decode(b"")


def _with_key(name: str) -> bytes:
    from flatbuffers import flexbuffers  # type: ignore[import-untyped]

    return bytes(flexbuffers.Dumps({"version": custom_options.version(), name: 1}))
