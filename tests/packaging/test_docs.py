"""Documentation: every relative link and picture leads somewhere, every command exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from rqdkm.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_there_are_pages_with_links() -> None:
    assert len(PAGES) > 10


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every ``rqdkm`` in a block of shell commands."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line) for line in lines if re.match(r"(\.venv/bin/)?rqdkm ", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_and_their_options_exist(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    words = words[: words.index("|")] if "|" in words else words
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known, f"{page}: {line}"


def test_the_camera_example_compiles(tmp_path: Path) -> None:
    """Against our headers, and as much of a model's as it uses."""
    (code,) = [
        c for c in re.findall(r"```c\n(.*?)```", (ROOT / "docs/patches.md").read_text(), re.DOTALL) if "#include" in c
    ]
    (tmp_path / "rqdkm_model.h").write_text(
        "#include <stdint.h>\nint32_t rqdkm_model_run(void);\nconst void *rqdkm_model_output(uint32_t index);\n"
    )
    (tmp_path / "camera.c").write_text(code)
    done = subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(ROOT / "tflm_ops/include"),
         "-I", str(tmp_path), str(tmp_path / "camera.c")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_how_commands_are_run_is_said_where_readers_begin() -> None:
    assert len(commands()) > 20
    for page in (ROOT / "README.md", ROOT / "docs" / "cli.md"):
        text = page.read_text()
        assert ". .venv/bin/activate" in text and ".venv/bin/rqdkm" in text
