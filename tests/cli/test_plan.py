"""rqdkm plan show, edit, check; and what deploy says of plans and parameters that cannot be used."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import rqdkm_tvm
from rqdkm import plan_files
from rqdkm.cli import app
from rqdkm.models import load, zoo
from rqdkm_tvm import files
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan

runner = CliRunner()


def parameters() -> Parameters:
    rng = np.random.default_rng(0)
    weights = rng.integers(-8, 8, (4, 3, 3, 2)).astype(np.int8)
    layer = LayerParameters(weights, np.full(4, 0.5, np.float32), np.full(4, 1000, np.int32))
    return Parameters({"a": layer, "b2": layer})


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    layers = [
        LayerPlan("a", "conv2d", "conv2d_s8_direct", {"rows": 2}, ((8, 2), (4, 2)), OutputPlan(4, 0.25, -8)),
        LayerPlan("b", "softmax", None),
        LayerPlan("c", "conv2d", "conv2d_s8_direct", {"band": 4, "rows": 4}),
        LayerPlan("sum", "add", "fused"),
        LayerPlan("d", "conv2d", "conv2d_s8_direct", {"band": 2, "rows": 2}),
        LayerPlan("pool", "max_pool2d", "fused"),
    ]
    plan_files.write(tmp_path, Plan(layers), parameters())
    return tmp_path


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_show_prints_bits_and_kernels(folder: Path) -> None:
    code, text, _ = invoke("plan", "show", folder)
    assert code == 0
    row = next(line for line in text.splitlines() if line.startswith("a "))
    assert row.split() == ["a", "conv2d", "8x2", "4x2", "4", "0.25", "-8", "conv2d_s8_direct", "rows", "2"]
    assert "TVM" in next(line for line in text.splitlines() if line.startswith("b "))
    assert invoke("plan", "show", folder / "plan.json", "--json")[1] == (folder / "plan.json").read_text()


def test_edit_changes_one_layer_and_fits_its_parameters(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.json"
    code, _, message = invoke(
        "plan", "edit", folder, "--layer", "a", "--weights", "4x2,2x2", "--output", "2:0.25:-2", "--kernel", "auto",
        "-o", target,
    )  # fmt: skip
    assert (code, "fitted to its new bits" in message) == (0, True)
    found, read = plan_files.read(target)
    assert found.layers[0] == LayerPlan("a", "conv2d", "", {}, ((4, 2), (2, 2)), OutputPlan(2, 0.25, -2))
    assert found.layers[1] == LayerPlan("b", "softmax", None)
    assert read is not None
    before = parameters()
    np.testing.assert_array_equal(read["b2"].weights, before["b2"].weights)  # nobody else's
    np.testing.assert_array_equal(read["a"].weights[:2], before["a"].weights[:2])  # 4 bits hold them
    assert (read["a"].scales[:2] == 0.5).all()
    low = read["a"].weights[2:]
    assert (low.min(), low.max()) == (-2, 1)
    real = low * read["a"].scales[2:, None, None, None]
    error = np.abs(real - 0.5 * before["a"].weights[2:]).mean()
    assert error < 0.5 * np.abs(0.5 * before["a"].weights[2:]).mean()  # near the values there were
    bias = read["a"].bias
    assert bias is not None
    np.testing.assert_allclose(bias * read["a"].scales, 1000 * 0.5, rtol=0.01)  # in units of the new scales
    kept, old = plan_files.read(folder / "plan.json")  # the source is as it was
    assert kept.layers[0].weights == ((8, 2), (4, 2)) and old is not None
    np.testing.assert_array_equal(old["a"].weights, before["a"].weights)


def test_more_bits_compute_what_fewer_did(folder: Path) -> None:
    """The integers were trained or repaired together with those of other layers."""
    assert invoke("plan", "edit", folder, "--layer", "a", "--weights", "8")[0] == 0
    found, read = plan_files.read(folder / "plan.json")
    assert found.layers[0].weights == () and read is not None
    assert read.to_bytes() == parameters().to_bytes()


def test_a_new_scale_of_a_result_needs_the_model_where_there_are_parameters(folder: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    code, _, message = invoke("plan", "edit", folder, "--layer", "a", "--output", "4:0.5:-8")
    assert (code, "pass --model" in message) == (2, True)
    assert (folder / "plan.json").read_bytes() == before


def test_a_full_disk_leaves_plan_and_parameters_as_they_were(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written: list[str] = []

    def fail_at_the_second(path: str, mode: int) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "chmod", fail_at_the_second)
    assert invoke("plan", "edit", folder, "--layer", "a", "--weights", "2")[0] == 2
    assert len(written) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_edit_of_a_kernel_keeps_the_parameters(folder: Path) -> None:
    assert invoke("plan", "edit", folder, "--layer", "a", "--kernel", "tvm")[0] == 0
    found, read = plan_files.read(folder / "plan.json")
    assert found.layers[0].kernel is None
    assert read is not None
    np.testing.assert_array_equal(read["a"].weights, parameters()["a"].weights)


def plain(folder: Path) -> None:
    """Without parameters."""
    plan_files.write(folder, dataclasses.replace(plan_files.read(folder)[0], parameters=None), None)


def kernels(folder: Path) -> list[str | None]:
    return [x.kernel for x in plan_files.read(folder / "plan.json")[0].layers]


def test_what_an_edit_concerns_gets_its_kernel_anew(folder: Path) -> None:
    """Configurations are for the bit-widths there were; a fused layer stays fused, TVM's stay TVM's."""
    before = kernels(folder)
    assert before == ["conv2d_s8_direct", None, "conv2d_s8_direct", "fused", "conv2d_s8_direct", "fused"]
    code, _, message = invoke("plan", "edit", folder, "--layer", "c", "--weights", "4x8")
    assert (code, "to be chosen anew: c\n" in message) == (0, True)
    assert kernels(folder) == [*before[:2], "", *before[3:]]
    assert invoke("plan", "edit", folder, "--layer", "c", "--kernel", "conv2d_s8_gemm")[0] == 0
    plain(folder)
    code, _, message = invoke("plan", "edit", folder, "--layer", "sum", "--output", "4:0.5:0")
    assert (code, "to be chosen anew: c, d\n" in message) == (0, True)  # c computes it, d reads it
    assert kernels(folder) == [*before[:2], "", "fused", "", "fused"]


def test_a_kernel_of_its_own_undoes_a_fusion(folder: Path) -> None:
    code, _, message = invoke("plan", "edit", folder, "--layer", "sum", "--kernel", "add_s8")
    assert (code, "to be chosen anew: c\n" in message) == (0, True)
    assert kernels(folder)[2:4] == ["", "add_s8"]
    plain(folder)
    assert invoke("plan", "edit", folder, "--layer", "c", "--output", "4:0.5:0")[0] == 0  # stored now


def test_what_tvm_computes_is_not_written_over(folder: Path) -> None:
    """Later layers that might: the plan does not say which one reads it."""
    plan, parameters = plan_files.read(folder)
    plan.layers[4].config["in_place"] = 0
    plan_files.write(folder, plan, parameters)
    code, _, message = invoke("plan", "edit", folder, "--layer", "a", "--kernel", "tvm")
    assert (code, "to be chosen anew: d\n" in message) == (0, True)
    assert kernels(folder) == [None, None, "conv2d_s8_direct", "fused", "", "fused"]


def test_one_width_for_all_channels_and_back_to_the_model(folder: Path) -> None:
    plain(folder)
    assert invoke("plan", "edit", folder, "--layer", "a", "--weights", "2", "--output", "model")[0] == 0
    found, _ = plan_files.read(folder / "plan.json")
    assert (found.layers[0].weights, found.layers[0].output) == (((2, 4),), None)
    assert invoke("plan", "edit", folder, "--layer", "a", "--weights", "8")[0] == 0
    assert plan_files.read(folder / "plan.json")[0].layers[0].weights == ()


WRONG = {
    "unknown layer": (("--layer", "z", "--weights", "4"), 'no layer "z"'),
    "nothing to do": (("--layer", "a"), "nothing to change"),
    "three bits": (("--layer", "a", "--weights", "3"), "no bit-widths"),
    "a run without count": (("--layer", "a", "--weights", "4x2 8"), "leaves out how many"),
    "runs for other channels": (("--layer", "a", "--weights", "4x3"), "covers 3 output channels, the layer has 4"),
    "an unknown kernel": (("--layer", "c", "--kernel", "conv2d_s8_magic"), 'no kernel "conv2d_s8_magic" for conv2d'),
    "a kernel of another operator": (("--layer", "sum", "--kernel", "conv2d_s8_direct"), "kernels: add_s8"),
    "an output without scale": (("--layer", "a", "--output", "4"), "no quantization"),
    "a negative scale": (("--layer", "a", "--output", "4:-1:0"), "no quantization"),
    "a zero point out of range": (("--layer", "a", "--output", "2:0.5:2"), "outside the range"),
    "unknown channels": (("--layer", "c", "--weights", "4"), "write 4xN, where N is the last number of its shape"),
    "no weights": (("--layer", "b", "--weights", "4x2"), "softmax has no weights"),
    "a result that keeps its quantization": (("--layer", "b", "--output", "4:0.5:0"), "cannot be quantized anew"),
    "two fused layers as reports call them": (
        ("--layer", "c + sum", "--output", "4:0.5:0"),
        'edit weights and kernel of "c", the output of "sum"',
    ),
    "the result of a convolution that an addition was fused into": (
        ("--layer", "c", "--output", "4:0.5:0"),
        '"sum" was fused into "c", whose own result never reaches memory',
    ),
    "the weights of a fused addition": (("--layer", "sum", "--weights", "4"), 'edit those of "c"'),
    "the result of a fused pool": (("--layer", "pool", "--output", "4:0.5:0"), 'edit the output of "d"'),
    "a fused pool as reports call it": (("--layer", "d + pool", "--kernel", "auto"), 'the output of "d"'),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_edits_are_one_message_and_change_nothing(folder: Path, name: str) -> None:
    arguments, reason = WRONG[name]
    before = (folder / "plan.json").read_bytes()
    code, _, message = invoke("plan", "edit", folder, *arguments)
    assert code == 2
    assert reason in message
    assert "Traceback" not in message
    assert (folder / "plan.json").read_bytes() == before


def test_parameters_that_are_missing_or_not_the_plan_s_are_refused(folder: Path) -> None:
    path = folder / "parameters.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(PlanError, match="not the file that the plan was made with"):
        plan_files.read(folder / "plan.json")
    path.unlink()
    with pytest.raises(PlanError, match="needs its parameters file"):
        plan_files.read(folder / "plan.json")


def test_check_compiles_the_plan_or_says_what_does_not_fit(tmp_path: Path) -> None:
    model = zoo.path("image_example1")
    plan = tmp_path / "plan.json"
    plan.write_text(Plan().to_json())
    code, text, _ = invoke("plan", "check", plan, model, "--json")
    assert code == 0
    found = json.loads(text)
    assert found["kernels"] == found["layers"] > 3
    assert found["bitops"] == 64 * found["macs"]
    plan.write_text(Plan([LayerPlan("nobody", "conv2d", weights=((4, 8),))]).to_json())
    code, _, message = invoke("plan", "check", plan, model)
    assert code == 2
    assert 'no layer "nobody"' in message
    assert invoke("plan", "edit", plan, "--layer", "nobody", "--weights", "8", "--model", model)[0] == 2


def test_the_model_s_channels_and_scales_are_known(tmp_path: Path) -> None:
    """Runs that do not fit are refused before anything is written, an edit with the model always compiles."""
    model, plan = zoo.path("image_example1"), tmp_path / "plan.json"
    loaded = load.load(model)
    plan_files.write(tmp_path, rqdkm_tvm.compile_model(loaded.module).plan, None)
    layer = next(x for x in plan_files.read(plan)[0].layers if x.op == "conv2d")
    before = plan.read_bytes()
    code, _, message = invoke("plan", "edit", plan, "--layer", layer.name, "--weights", "4x3", "--model", model)
    assert (code, "covers 3 output channels, the layer has" in message) == (2, True)
    assert plan.read_bytes() == before
    assert invoke("plan", "edit", plan, "--layer", layer.name, "--weights", "4", "--model", model)[0] == 0
    assert invoke("plan", "edit", plan, "--layer", layer.name, "--kernel", "tvm", "--model", model)[0] == 0
    code, _, message = invoke("plan", "check", plan, model, "--json")
    assert code == 0, message
