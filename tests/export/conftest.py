"""A small model, compiled and written once."""

from __future__ import annotations

import pytest

from rqdkm.export.project import Project, write_project
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g


@pytest.fixture(scope="session")
def compiled() -> CompiledModel:
    x = g.average_pool(g.conv2d(g.image(8, 8, 4, name="image"), 16), (8, 8))
    logits = g.dense(relay.reshape(x, (1, 16)), features=16)
    mod = g.module(g.quantize(relay.nn.softmax(g.dequantize(logits, 0.1, 4))))
    return compile_model(prepare(mod), output_names=["scores"])


@pytest.fixture(scope="session")
def project(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write_project(compiled, tmp_path_factory.mktemp("project") / "out", name="little")
