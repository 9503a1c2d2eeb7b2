"""Networks drawn by ``tests.passes.graphs`` are the same whatever ran before: per module and per test."""

from __future__ import annotations

import pytest

from tests.passes import graphs


@pytest.fixture(autouse=True, scope="module")
def _same_networks_in_every_module() -> None:
    graphs.reseed()


@pytest.fixture(autouse=True)
def _same_networks_in_every_test() -> None:
    graphs.reseed()
