"""The trained int8 networks of the wheel deploy and are exact, but for one that is larger than the chip."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqdkm import pipeline
from rqdkm.models import zoo
from rqdkm.options import DeployOptions
from rqdkm_tvm.errors import BudgetError

INT8 = [name for name in zoo.names() if not name.endswith("float32")]
# two feature maps of 134,480 bytes together, the SRAM has 131,072: only fused with its pooling the convolution fits
TOO_LARGE = "rock_paper_scissors"


def test_the_wheel_holds_sixteen_int8_networks() -> None:
    assert len(INT8) == 16 and TOO_LARGE in INT8


def test_what_the_chip_cannot_hold_is_refused_with_the_bytes_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="134,480") as caught:
        pipeline.deploy(DeployOptions(model=zoo.path(TOO_LARGE), out=tmp_path / "out", config="baseline"))
    assert "max_pooling2d" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", INT8)
def test_deploys_and_is_exact(name: str, tmp_path: Path) -> None:
    report = pipeline.deploy(DeployOptions(model=zoo.path(name), out=tmp_path / "out", samples=4))
    assert report.exactness is not None
    assert report.exactness.mismatches == 0
    assert report.totals.cycles is not None and report.totals.cycles > 0
    assert all(row.offloaded for row in report.offload), [row for row in report.offload if not row.offloaded]
