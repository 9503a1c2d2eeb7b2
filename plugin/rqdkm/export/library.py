"""Which files of tflm_ops a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_IDENTIFIER = re.compile(r"\brqdkm_\w+")
# a function definition at the start of a line, not static
_DEFINITION = re.compile(
    r"^(?!static\b)(?:const\s+)?\w[\w ]*?[\s*]+(rqdkm_\w+)\s*\([^;{]*\)\s*\{", re.MULTILINE | re.DOTALL
)
# a table or other object at the start of a line
_OBJECT = re.compile(r"^(?!static\b|extern\b)(?:const\s+)?\w+\s+(rqdkm_\w+)\s*(?:\[[^;=]*\])*\s*=", re.MULTILINE)
# a definition whose parameter list is a macro: RQDKM_SOMETHING(rqdkm_name) {
_MACRO_DEFINITION = re.compile(r"^RQDKM_\w+\((rqdkm_\w+)\)\s*\{", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


FOLDERS = ("kernels", "morph")  # of src: what a model may need


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def kernel_sources(library: Path, users: Iterable[str]) -> list[Path]:
    """The files of :data:`FOLDERS` that define what the C texts ``users`` mention, and what those mention in turn.

    Args:
        library: directory of tflm_ops.
        users: C texts that call kernels.

    Returns:
        Paths relative to ``library``, sorted.
    """
    sources = (path for folder in FOLDERS for path in sorted((library / "src" / folder).glob("*.c")))
    texts = {path: _without_comments(path.read_text()) for path in sources}
    headers = {p.name: _without_comments(p.read_text()) for p in (library / "src").rglob("*.h")}
    headers |= {p.name: _without_comments(p.read_text()) for p in (library / "include").rglob("*.h")}
    defined = {
        symbol: path
        for path, text in texts.items()
        for pattern in (_DEFINITION, _MACRO_DEFINITION, _OBJECT)
        for symbol in pattern.findall(text)
    }
    needed: set[Path] = set()
    pending = [_without_comments(text) for text in users]
    read_headers: set[str] = set()
    while pending:
        text = pending.pop()
        for symbol in _IDENTIFIER.findall(text):
            path = defined.get(symbol)
            if path is not None and path not in needed:
                needed.add(path)
                pending.append(texts[path])
        for include in _INCLUDE.findall(text):
            name = Path(include).name
            # inline kernels in headers call functions too; public headers only declare
            if name in headers and name not in read_headers:
                read_headers.add(name)
                pending.append(_bodies(headers[name]))
    return sorted(path.relative_to(library) for path in needed)


def _bodies(header: str) -> str:
    """The parts of a header that are code: includes, macros and inline functions, not declarations."""
    declaration = re.compile(r"^(?!static\b|#)\w[^;{}#]*\([^;{}#]*\)\s*;", re.MULTILINE | re.DOTALL)
    return declaration.sub("", header)
