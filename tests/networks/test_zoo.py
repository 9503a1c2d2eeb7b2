"""Every trained int8 network of the wheel deploys and is exact; the large ones are too slow to repeat elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqdkm import pipeline
from rqdkm.models import zoo
from rqdkm.options import DeployOptions

INT8 = [name for name in zoo.names() if not name.endswith("float32")]


def test_the_wheel_holds_sixteen_int8_networks() -> None:
    assert len(INT8) == 16


@pytest.mark.parametrize("name", INT8)
def test_deploys_and_is_exact(name: str, tmp_path: Path) -> None:
    report = pipeline.deploy(DeployOptions(model=zoo.path(name), out=tmp_path / "out", samples=4))
    assert report.exactness is not None
    assert report.exactness.mismatches == 0
    assert report.totals.cycles is not None and report.totals.cycles > 0
    assert all(row.offloaded for row in report.offload), [row for row in report.offload if not row.offloaded]
