"""Bit-widths of the kernels of a morphing network: each kernel's own, within its own allowance."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqdkm import morph_planning
from rqdkm.options import DeployOptions, OptionError, parse_drops
from rqdkm.patching import Patcher
from rqdkm.planning import Limits, partition
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import RamBudgetError
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.gather import kernel_layers, kernel_names
from rqdkm_tvm.morph.library import network_names
from tests.models import morphs


def test_kernels_are_called_what_the_firmware_calls_them() -> None:
    assert kernel_names(partition(morphs.int8_model())) == list(morphs.NAMES)


def test_a_layer_with_fewer_kernels_runs_its_last_one() -> None:
    assert network_names([["3x3", "5x5"], ["3x3", "5x5", "1x1"]]) == ["3x3", "5x5", "5x5 / 1x1"]
    assert network_names([]) == []


def test_only_the_kernel_that_is_named_gets_fewer_bits_and_the_plan_fits_the_model() -> None:
    model = morphs.int8_model()
    module = partition(model)
    found = morph_planning.plan(model, morphs.samples(40), Limits(), drops={"5x5": 60.0})
    own = {name for layer in kernel_layers(module) for name in layer[morphs.NAMES.index("5x5")]}
    narrow = {entry.name for entry in found.plan.layers if set(entry.weight_bits) - {8}}
    assert narrow and narrow <= own
    assert len(found.kernels) == 1
    LowerMixedPrecision(found.plan, found.parameters)(module)  # every layer has its parameters


def test_a_kernel_that_is_not_there_is_named() -> None:
    with pytest.raises(OptionError, match=r"there is no kernel '7x7'"):
        morph_planning.plan(morphs.int8_model(), morphs.samples(120), Limits(), drops={"7x7": 1.0})


def test_patches_of_a_morphing_network_count_its_layers_as_they_are_compiled() -> None:
    """All kernels' results at once would need several times the memory, and that would be said to be the least."""
    model = morphs.int8_model()
    with pytest.raises(RamBudgetError) as whole:
        compile_model(model.module, ram_budget=64)
    options = DeployOptions(Path("morph.tflite"), Path("out"), config="dkm", patch="auto")
    with pytest.raises(RamBudgetError) as patched:
        Patcher(options, model, None, None, lambda _text: None).plan(64, None)
    assert patched.value.needed_bytes <= whole.value.needed_bytes


def test_drops_are_read_from_text() -> None:
    assert parse_drops("5x5=1.3, separable 3x3=0") == {"5x5": 1.3, "separable 3x3": 0.0}
    assert parse_drops(None) is None
    for text in ("5x5", "5x5=much", "", "=1.3", "5x5=1,5x5=2"):
        with pytest.raises(OptionError, match="no list of different kernels"):
            parse_drops(text)
