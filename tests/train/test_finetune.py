"""Fine-tuning: what the training process is told, and what is made of its answer. Mostly without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm.models import data, load, tflite_read
from rqdkm.options import FinetuneOptions, OptionError
from rqdkm.train import finetune, job, worker
from rqdkm_tvm.errors import DataError, ModelError, PlanError, RqdkmError, ToolError
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import UNDECIDED, LayerPlan, Plan
from rqdkm_tvm.sensitivity.float_twin import structure
from rqdkm_tvm.sites import read_sites
from tests.train import small, tensorflow_fixture

needs_tensorflow = pytest.mark.skipif(
    not os.environ.get(finetune.PYTHON_VARIABLE), reason=f"{finetune.PYTHON_VARIABLE} names no Python with TensorFlow"
)


@pytest.fixture(scope="module")
def module(files: small.Files) -> Any:
    return PartitionLayers()(prepare(load.load(files.model).module))


@pytest.fixture(scope="module")
def network(files: small.Files, module: Any) -> job.Network:
    layers, roots = structure(module["main"])
    inputs = finetune._inputs(load.load(files.model))
    return job.Network(layers, roots, inputs, small.plan(), True)


@pytest.fixture(scope="module")
def answer() -> dict[str, np.ndarray]:
    with np.load(tensorflow_fixture.FILE) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture()
def answered(monkeypatch: pytest.MonkeyPatch, answer: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The training process answers from the fixture; the list collects what it was told."""
    told: list[dict[str, Any]] = []

    def train(description: dict[str, Any], arrays: dict[str, Any], _progress: Any) -> dict[str, np.ndarray]:
        told.append({**description, "arrays": arrays})
        return answer

    monkeypatch.setattr(finetune, "_train", train)
    return told


# ---- what the training process is told


def test_the_job_states_the_network_as_the_plan_has_it_run(network: job.Network) -> None:
    told = job.describe(network)
    json.dumps(told)
    rows = {row["name"]: row for row in told["layers"]}
    assert list(rows) == ["first", "left", "right", "joined", "pooled", "dense"]
    assert [row["sources"] for row in told["layers"]] == [[-1], [0], [0], [1, 2], [3], [4]]
    assert rows["first"]["bits"] == 4 and rows["first"]["learned"] and rows["first"]["low"] == 0
    assert rows["left"]["high"] is None or rows["left"]["high"] == pytest.approx(6, abs=0.05)
    assert rows["right"]["low"] is None and rows["right"]["zero_point"] == 0
    assert rows["pooled"]["tied_to"] == 3 and not rows["pooled"]["learned"] and rows["pooled"]["rounds"]
    assert rows["pooled"]["scale"] == rows["joined"]["scale"] == 0.35
    assert rows["dense"]["bits"] == 8 and not rows["dense"]["learned"]
    assert rows["dense"]["input_shapes"] == [[1, 32]]
    assert told["roots"] == [5]


def test_weights_to_start_from_are_the_float_models(files: small.Files, network: job.Network) -> None:
    given = finetune._given(network, files.float_model)
    graph = tflite_read.read_graph(files.float_model.read_bytes(), "float")
    by_name = {name: (weights, bias) for name, _, weights, bias in job.float_weights(graph)}
    arrays = job.initial(network, given)
    own = job.initial(network, {})
    for index, layer in network.weighted():
        assert np.array_equal(arrays[f"{index}.weights"], by_name[layer.name][0])
        assert np.array_equal(arrays[f"{index}.bias"], by_name[layer.name][1])
        assert not np.array_equal(own[f"{index}.weights"], by_name[layer.name][0])
        assert np.abs(own[f"{index}.weights"] - by_name[layer.name][0]).max() < 0.02
    assert arrays["2.bits"].tolist() == [4] * 4 + [2] * 4


def test_layers_are_matched_by_likeness_not_only_by_order() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8, 3, 3, 4))
    bias = np.zeros(8)
    found = [("float_b", "conv2d", b, bias), ("float_a", "conv2d", a, bias), ("float_c", "conv2d", a.copy(), bias)]
    noisy = [("a", "conv2d", a + 0.01 * b), ("b", "conv2d", b - 0.01 * a), ("again", "conv2d", a)]
    assert worker.match(noisy, found) == [1, 0, 2]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (("x", "conv2d", np.ones((8, 3, 3, 5))), "no counterpart of that shape"),
        (("x", "depthwise_conv2d", np.ones((8, 3, 3, 4))), "no counterpart of that shape"),
        (("x", "conv2d", np.random.default_rng(1).normal(size=(8, 3, 3, 4))), "was not made from this float model"),
    ],
)
def test_a_float_model_of_another_network_is_refused(layer: tuple[str, str, np.ndarray], message: str) -> None:
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 4))
    with pytest.raises(worker.UnusableError, match=message):
        worker.match([layer], [("f", "conv2d", weights, np.zeros(8))])


# ---- what is made of the answer


def test_the_exported_integers_compute_what_was_trained(
    files: small.Files, module: Any, answer: dict[str, np.ndarray], answered: list[dict[str, Any]], tmp_path: Path
) -> None:
    """TFLite's integer arithmetic on the exported plan and parameters, against TensorFlow's fake-quantized logits."""
    found = finetune.finetune(tensorflow_fixture.options(files, tmp_path / "out"))
    plan = Plan.from_json(found.plan.read_text())
    lowered = LowerMixedPrecision(plan, Parameters.load(found.parameters))(module)
    x, _ = small.samples()
    quantization = load.load(files.model).inputs[0].quantization
    assert quantization is not None
    logits = finetune.run_integers(lowered, [data.quantize(x, quantization)[: finetune.CHECKED]])
    step = structure(lowered["main"])[0][-1].layer.output.scale
    difference = np.abs(logits - answer["logits"])
    assert difference.max() <= 0.01 * step  # the same integers throughout, but for float32
    assert found.agreeing == found.checked == len(logits) == finetune.CHECKED
    assert len(np.unique(logits.round(4))) > 20  # logits that differ from each other
    assert found.history[0].epoch == 0 and len(found.history) == 1 + tensorflow_fixture.EPOCHS


def test_the_plans_bits_are_kept_and_its_scales_completed(
    files: small.Files, module: Any, answered: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = finetune.finetune(tensorflow_fixture.options(files, tmp_path / "out"))
    before, after = small.plan(), Plan.from_json(found.plan.read_text())
    assert [x.name for x in after.layers] == [x.name for x in before.layers]
    for old, new in zip(before.layers, after.layers, strict=True):
        assert new.weights == old.weights
        if old.output is not None:
            assert new.output is not None
            assert (new.output.bits, new.output.zero_point) == (old.output.bits, old.output.zero_point)
            assert new.output.scale != old.output.scale
    assert after.parameters is not None and after.parameters.file == found.parameters.name
    layers = {site.name: site.layer for site in read_sites(LowerMixedPrecision(after)(module)["main"])}
    parameters = Parameters.load(found.parameters)
    parameters.check(layers.values(), {entry.name: entry.weight_bits for entry in after.layers})
    assert np.abs(parameters["right"].weights[4:]).max() <= 2


def test_kernels_are_chosen_anew_except_where_tvm_was_asked_for(
    files: small.Files, answered: list[dict[str, Any]], tmp_path: Path
) -> None:
    plan = small.plan()
    plan.layers[0].kernel, plan.layers[0].config = "conv2d_s8_direct", {"rows": 1}
    plan.layers.append(LayerPlan("soft", "softmax", None))
    (tmp_path / "plan.json").write_text(plan.to_json())
    options = FinetuneOptions(files.model, tmp_path / "plan.json", files.data, tmp_path / "out")
    after = Plan.from_json(finetune.finetune(options).plan.read_text())
    assert (after.layers[0].kernel, after.layers[0].config) == (UNDECIDED, {})
    assert after.layers[-1].kernel is None


# ---- what cannot be


def test_integers_that_do_not_decide_as_trained_are_not_handed_out(
    files: small.Files, monkeypatch: pytest.MonkeyPatch, answer: dict[str, np.ndarray], tmp_path: Path
) -> None:
    wrong = {**answer, "5.weights": answer["5.weights"][[1, 0, 3, 2]]}
    monkeypatch.setattr(finetune, "_train", lambda *_: wrong)
    with pytest.raises(RqdkmError, match="decide like the trained network"):
        finetune.finetune(tensorflow_fixture.options(files, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_without_tensorflow_the_command_says_how_to_get_it(files: small.Files, tmp_path: Path) -> None:
    """As a real process; this environment has TVM, so it has no TensorFlow."""
    command = [sys.executable, "-m", "rqdkm.cli", "finetune", str(files.model), "--plan", str(files.plan)]
    environment = {key: value for key, value in os.environ.items() if key != finetune.PYTHON_VARIABLE}
    done = subprocess.run(
        [*command, "--data", str(files.data), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    assert "TensorFlow is not installed" in done.stderr and "pip install tensorflow-cpu" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_a_python_that_does_not_exist_is_a_clear_error(
    files: small.Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(finetune.PYTHON_VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ToolError, match="cannot start"):
        finetune.finetune(tensorflow_fixture.options(files, tmp_path / "out"))


@pytest.mark.parametrize("body", ["import sys; sys.exit('out of memory')", "import os; os.kill(os.getpid(), 9)"])
def test_a_training_process_that_dies_is_a_clear_error(
    files: small.Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    (tmp_path / "worker.py").write_text(body)
    monkeypatch.setattr(worker, "__file__", str(tmp_path / "worker.py"))
    monkeypatch.delenv(finetune.PYTHON_VARIABLE, raising=False)
    with pytest.raises(ToolError, match="training failed"):
        finetune.finetune(tensorflow_fixture.options(files, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_belong_together_are_refused(files: small.Files, tmp_path: Path) -> None:
    def run(**changed: Any) -> None:
        given = {"model": files.model, "plan": files.plan, "data": files.data, "out": tmp_path / "out", **changed}
        finetune.finetune(FinetuneOptions(**given))

    other = tmp_path / "plan.json"
    other.write_text(Plan([LayerPlan("elsewhere", "conv2d", weights=((4, 8),))]).to_json())
    with pytest.raises(PlanError, match="elsewhere"):
        run(plan=other)
    other.write_text(Plan([LayerPlan("first", "conv2d", weights=((4, 9),))]).to_json())
    with pytest.raises(PlanError, match="9 output channels"):
        run(plan=other)
    with pytest.raises(PlanError, match="cannot read the plan"):
        run(plan=tmp_path / "none.json")
    with pytest.raises(ModelError, match="computes in float"):
        run(model=files.float_model)
    with pytest.raises(ModelError, match="not float32"):
        run(weights=files.model)
    with pytest.raises(ModelError, match="no such file"):
        run(weights=tmp_path / "none.keras")
    np.savez(tmp_path / "one.npz", x=small.samples()[0][:1])
    with pytest.raises(DataError, match="samples to learn from"):
        run(data=tmp_path / "one.npz")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"seed": -1}, {"rate": 0.0}, {"rate": float("nan")}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        FinetuneOptions(Path("m"), Path("p"), Path("d"), Path("new"), **wrong)


def test_the_training_process_needs_nothing_of_ours() -> None:
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r}); assert not {{'tvm', 'rqdkm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


# ---- with TensorFlow


@needs_tensorflow
def test_training_lowers_the_loss_and_is_the_same_every_time(files: small.Files, tmp_path: Path) -> None:
    results = [finetune.finetune(tensorflow_fixture.options(files, tmp_path / name)) for name in ("a", "b")]
    assert min(e.loss for e in results[0].history) < results[0].history[0].loss
    assert results[0].agreeing == results[0].checked
    assert results[0].parameters.read_bytes() == results[1].parameters.read_bytes()
    assert results[0].plan.read_text() == results[1].plan.read_text()


@needs_tensorflow
def test_a_keras_model_gives_the_weights_of_its_tflite_file(tmp_path: Path) -> None:
    """Batch normalisation folded, depthwise and dense layouts turned; in TensorFlow's own process."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(worker.__file__).parent)!r})
import numpy as np, tensorflow as tf, worker
tf.keras.utils.set_random_seed(0)
L = tf.keras.layers
x = inputs = tf.keras.Input((6, 6, 2))
depthwise = L.DepthwiseConv2D(2, depth_multiplier=2)
for layer in (L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), depthwise,
              L.BatchNormalization(scale=False), L.Flatten(), L.Dense(3)):
    x = layer(x)
model = tf.keras.Model(inputs, x)
rng = np.random.default_rng(0)
model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
model.save({str(tmp_path / "m.keras")!r})
run = worker.OPERATORS
found = worker.keras_weights({str(tmp_path / "m.keras")!r})
assert [op for _, op, _, _ in found] == ["conv2d", "depthwise_conv2d", "fully_connected"]
image = rng.normal(size=(1, 6, 6, 2)).astype(np.float32)
def attrs(**more): return {{"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), **more}}
y = tf.nn.relu(run["conv2d"](attrs(groups=1), image, found[0][2].astype(np.float32)) + found[0][3])
y = run["depthwise_conv2d"](attrs(multiplier=2), y, found[1][2].astype(np.float32)) + found[1][3]
y = run["fully_connected"]({{}}, tf.reshape(y, (1, -1)), found[2][2]) + found[2][3]
assert np.abs(y - model.predict(image, verbose=0)).max() < 1e-4
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = os.environ[finetune.PYTHON_VARIABLE]
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
