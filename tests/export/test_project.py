"""The written project: complete, reproducible, atomic, and built by nothing but CMake and the cross compiler."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rqdkm.export import library, metadata
from rqdkm.export.project import Project, build, write_project
from rqdkm.export.size import measure
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.errors import BudgetError, RqdkmError, ToolError
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sources import tflm_ops_dir


@pytest.fixture(scope="session")
def elf(project: Project) -> Path:
    return build(project.path)


def _tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_metadata_describes_the_model(project: Project, compiled: CompiledModel) -> None:
    found = json.loads(project.metadata.read_text())
    assert (found["schema"], found["version"], found["model_name"]) == ("rqdkm.metadata", 1, "little")
    [image], [scores] = found["inputs"], found["outputs"]
    assert (image["name"], image["shape"], image["dtype"], image["bytes"]) == ("image", [1, 8, 8, 4], "int8", 256)
    assert (scores["name"], scores["scale"], scores["zero_point"]) == ("scores", 1 / 256, -128)
    assert found["memory"]["pools"][0]["bytes"] == compiled.memory.arena_bytes
    assert [layer["op"] for layer in found["layers"]] == ["conv2d", "avg_pool2d", "fully_connected", "softmax"]
    assert Plan.from_json((project.path / "plan.json").read_text()) == compiled.plan
    assert Plan.from_json(json.dumps(found["plan"])) == compiled.plan


def test_model_id_is_the_checksum_of_the_metadata(project: Project) -> None:
    found = json.loads(project.metadata.read_text())
    model_id = int(found.pop("model_id"), 16)
    assert model_id == project.model_id == metadata.identify(found)
    assert f"rqdkm_model_id = 0x{model_id:08x}u;" in (project.path / "model" / "rqdkm_model.c").read_text()


def test_the_same_model_gives_the_same_files(compiled: CompiledModel, project: Project, tmp_path: Path) -> None:
    again = write_project(compiled, tmp_path / "again", name="little")
    written = {name: data for name, data in _tree(project.path).items() if not name.startswith("build")}
    assert _tree(again.path) == written


def test_only_needed_kernels_are_copied(project: Project) -> None:
    copied = {p.name for p in (project.path / "tflm_ops" / "src" / "kernels").glob("*.c")}
    everything = {p.name for p in (tflm_ops_dir() / "src" / "kernels").glob("*.c")}
    assert copied and copied < everything
    assert not any("depthwise" in name or "max_pool" in name for name in copied)


def test_nothing_points_back_at_this_machine(project: Project) -> None:
    root = str(tflm_ops_dir().parent)
    for name, data in _tree(project.path).items():
        if not name.startswith("build"):
            assert root.encode() not in data, name


def test_builds_anywhere_with_plain_cmake(project: Project, tmp_path: Path) -> None:
    moved = tmp_path / "somewhere else"
    shutil.copytree(project.path, moved, ignore=shutil.ignore_patterns("build*"))
    subprocess.run(["cmake", "-S", str(moved), "-B", str(moved / "b")], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(moved / "b")], check=True, capture_output=True)
    assert (moved / "b" / "firmware.elf").is_file()


def test_sizes_are_those_the_linker_placed(elf: Path, compiled: CompiledModel) -> None:
    size = measure(elf)
    assert size.workspace_bytes == -(-compiled.memory.arena_bytes // 8) * 8
    constants = sum(layer.lowered.constant_bytes for layer in compiled.layers)
    assert constants <= size.weights_bytes <= constants + 16 * 4 * len(compiled.layers)
    assert size.stack_bytes == 4096 and size.code_bytes > 2000
    text = subprocess.run(
        ["arm-none-eabi-size", str(elf)], check=True, capture_output=True, text=True
    ).stdout.splitlines()[1]
    listed_text, data, bss = (int(word) for word in text.split()[:3])
    assert size.flash_bytes == listed_text + data
    assert size.ram_bytes == data + bss


def test_profiling_build_counts_every_layer(project: Project) -> None:
    profiled = build(project.path, profile_layers=True)
    table = subprocess.run(["arm-none-eabi-nm", "-S", str(profiled)], check=True, capture_output=True, text=True).stdout
    found = re.search(r"^\w+ (\w+) \w rqdkm_layer_cycles$", table, re.MULTILINE)
    assert found and int(found[1], 16) == 4 * 4


def test_compiler_errors_are_quoted(compiled: CompiledModel, tmp_path: Path) -> None:
    broken = dataclasses.replace(compiled, layers_source=compiled.layers_source + "int broken = no_such_thing;\n")
    path = write_project(broken, tmp_path / "broken", name="broken").path
    with pytest.raises(ToolError, match="no_such_thing"):
        build(path)


def test_an_image_too_large_for_the_chip_is_a_budget_error(compiled: CompiledModel, tmp_path: Path) -> None:
    path = write_project(compiled, tmp_path / "large", name="large").path
    source = path / "model" / "rqdkm_model.c"
    source.write_text(re.sub(r"arena\[\d+\]", "arena[200000]", source.read_text()))
    with pytest.raises(BudgetError, match="RAM overflows by"):
        build(path)


def test_a_failed_write_leaves_nothing_behind(compiled: CompiledModel, tmp_path: Path) -> None:
    unnamed = dataclasses.replace(compiled, inputs=(dataclasses.replace(compiled.inputs[0], tensor=_rank6(compiled)),))
    with pytest.raises(RqdkmError, match="rank 6"):
        write_project(unnamed, tmp_path / "out", name="x")
    assert list(tmp_path.iterdir()) == []


def _rank6(compiled: CompiledModel):  # type: ignore[no-untyped-def]
    return dataclasses.replace(compiled.inputs[0].tensor, shape=(1, 1, 1, 8, 8, 4))


def test_a_foreign_directory_is_not_replaced(compiled: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RqdkmError, match="was not written by rqdkm"):
        write_project(compiled, tmp_path, name="x")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_board_is_refused(compiled: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(RqdkmError, match='no board "arduino"') as caught:
        write_project(compiled, tmp_path / "out", name="x", board="arduino")
    assert "stm32f407" in caught.value.hint


def test_measuring_something_else_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.elf").write_text("not an ELF file")
    with pytest.raises(ToolError, match="cannot read the firmware image"):
        measure(tmp_path / "x.elf")
    with pytest.raises(ToolError, match="cannot read the firmware image"):
        measure(tmp_path / "missing.elf")


def test_library_closure_follows_calls_between_files(tmp_path: Path) -> None:
    kernels = tmp_path / "src" / "kernels"
    kernels.mkdir(parents=True)
    (tmp_path / "include").mkdir()
    (kernels / "a.c").write_text("/* rqdkm_d */\nint32_t rqdkm_a(const void *x,\n  int y) {\n  return rqdkm_b(y);\n}\n")
    (kernels / "b.c").write_text("static int rqdkm_c(void) { return 0; }\nint32_t rqdkm_b(int y) { return y; }\n")
    (kernels / "d.c").write_text("const int32_t rqdkm_d[3] = {1, 2, 3};\n")
    found = library.kernel_sources(tmp_path, ["return rqdkm_a(in0, 3);"])
    assert [p.name for p in found] == ["a.c", "b.c"]
    assert [p.name for p in library.kernel_sources(tmp_path, ["x = rqdkm_d[0];"])] == ["d.c"]
