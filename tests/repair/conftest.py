from __future__ import annotations

from pathlib import Path

import pytest

from tests.passes import graphs
from tests.train import small


@pytest.fixture(autouse=True, scope="module")
def _same_networks_in_every_module() -> None:
    graphs.reseed()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> small.Files:
    return small.make(Path(tmp_path_factory.mktemp("small")))
