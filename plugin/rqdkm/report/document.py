"""The schema for people and for other programs: key tables (docs/report.md) and JSON Schema (report.schema.json).

``python -m rqdkm.report.document DOCS_DIR`` rewrites both; a test holds them to the dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rqdkm.report.codec import is_required
from rqdkm.report.schema import SCHEMA, Key, Report
from rqdkm_tvm.files import write_atomic

BEGIN, END = "<!-- keys: generated, do not edit -->", "<!-- end of keys -->"

_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def key_tables() -> str:
    """One Markdown table per object of the report, outermost first."""
    lines: list[str] = []
    for name, kind in _objects():
        lines += [f"### {name}", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| key | type | unit | meaning |", "|---|---|---|---|"]
        for field, hint, key in _keys(kind):
            optional = "" if is_required(field) else " (optional)"
            lines.append(f"| `{field.name}` | {_type_name(hint)}{optional} | {key.unit} | {key.doc} |")
        lines.append("")
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """The report as JSON Schema, draft 2020-12. It cannot say that figures agree; codec.from_json checks that too."""
    kinds = {kind.__name__: kind for _, kind in _objects()}
    body = {name: _object_schema(kind) for name, kind in kinds.items() if kind is not Report}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **_object_schema(Report),
        "$defs": body,
    }


def update(docs: Path) -> None:
    """Rewrite the generated part of ``docs``/report.md, and ``docs``/report.schema.json."""
    page = docs / "report.md"
    write_atomic(page, with_tables(page.read_text(encoding="utf-8")))
    write_atomic(docs / "report.schema.json", json.dumps(json_schema(), indent=1) + "\n")


def with_tables(page: str) -> str:
    """``page`` with what is between its two markers replaced by :func:`key_tables`."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{key_tables()}\n{END}{after}"


def _objects() -> Iterator[tuple[str, type[Any]]]:
    """(path, dataclass) of every object, the report itself first."""
    yield "report", Report
    queue: list[tuple[str, type[Any]]] = [("", Report)]
    while queue:
        path, kind = queue.pop(0)
        for field, hint, _ in _keys(kind):
            inner, many = _inner(hint)
            if dataclasses.is_dataclass(inner):
                name = f"{path}.{field.name}".lstrip(".") + ("[]" if many else "")
                if (name, inner) not in queue:
                    yield name, typing.cast("type[Any]", inner)
                    queue.append((name, typing.cast("type[Any]", inner)))


def _keys(kind: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Any, Key]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, key = typing.get_args(hints[field.name])
        yield field, hint, key


def _inner(hint: Any) -> tuple[Any, bool]:
    """(type without `| None` and tuple, is it a list)."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.get_args(hint)[0], False
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return f"{_type_name(args[0])} or null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is tuple:
        return f"list of {_type_name(args[0])}" if args[-1] is ... else f"[{', '.join(map(_type_name, args))}]"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "object"
    return _JSON_TYPES[hint]


def _object_schema(kind: type[Any]) -> dict[str, Any]:
    properties = {field.name: _schema(hint, key) for field, hint, key in _keys(kind)}
    required = [field.name for field in dataclasses.fields(kind) if is_required(field)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any, key: Key, *, describe: bool = True) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    text = {"description": f"{key.doc} ({key.unit})" if key.unit else key.doc} if describe else {}
    if origin in (types.UnionType, typing.Union):
        return {**text, "anyOf": [_schema(args[0], key, describe=False), {"type": "null"}]}
    if origin is typing.Literal:
        return {**text, "enum": list(args)}
    if origin is tuple:
        body: dict[str, Any] = {"type": "array", "items": _schema(args[0], key, describe=False)}
        if args[-1] is not ...:
            body |= {"minItems": len(args), "maxItems": len(args)}
        return {**text, **body}
    if dataclasses.is_dataclass(hint):
        return {**text, "$ref": f"#/$defs/{typing.cast('type[Any]', hint).__name__}"}
    if origin is dict:
        return {**text, "type": "object"}
    body = {"type": _JSON_TYPES[hint]}
    if key.minimum is not None and hint in (int, float):
        body["minimum"] = key.minimum
    return {**text, **body}


if __name__ == "__main__":
    update(Path(sys.argv[1]))
