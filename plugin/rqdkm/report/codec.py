"""report.json to dataclasses and back, checking every key, type and range on the way in.

Strict on purpose: unknown keys are errors everywhere except below ``run`` and in free-form objects, so that a typo
or a damaged file never becomes a figure in a table.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from rqdkm.report.check import check
from rqdkm.report.errors import ReportError
from rqdkm.report.schema import SCHEMA, Key, Report
from rqdkm_tvm.files import write_atomic

T = TypeVar("T")


def to_json(report: Report) -> str:
    """The report as indented JSON with a final newline; the same report gives the same bytes."""
    return json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, where: str = "report.json") -> Report:
    """Parse and check a report.

    Raises:
        ReportError: not JSON, another schema, a missing, unknown or badly typed key, a value out of range, or
            figures that contradict each other.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"not a JSON file: {error}", where=where) from error
    if not isinstance(data, dict) or "schema" not in data:
        raise ReportError("not a report: no `schema` key", where=where)
    if data["schema"] != SCHEMA:
        raise ReportError(
            f"schema {data['schema']!r} is not {SCHEMA!r}", where=where, hint="use the rqdkm version that wrote it"
        )
    try:
        report = decode(Report, data, "")
        check(report)
    except ReportError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise ReportError(error.what, where=place, hint="the file was damaged or edited; deploy again") from error
    return report


def read(path: Path) -> Report:
    """The report in ``path``, a report.json or a directory that holds one.

    Raises:
        ReportError: it cannot be read, or see :func:`from_json`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "report.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"cannot read: {error.strerror}", where=str(path), hint="name a report.json, or the directory of a deploy"
        ) from error
    except UnicodeDecodeError as error:
        raise ReportError("not a text file", where=str(path)) from error
    return from_json(text, str(path))


def write(report: Report, path: Path) -> None:
    """Check ``report`` and write it to ``path`` atomically."""
    check(report)
    write_atomic(path, to_json(report))


def decode(kind: type[T], data: Any, where: str) -> T:
    """Build dataclass ``kind`` from JSON ``data``; ``where`` is the dotted path for messages."""
    if not isinstance(data, dict):
        raise ReportError(f"expected an object, got {_name(data)}", where=where)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ReportError("unknown key", where=_join(where, unknown[0]))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            hint, key = typing.get_args(hints[name])
            values[name] = _value(hint, data[name], key, _join(where, name))
        elif is_required(field):
            raise ReportError("missing key", where=_join(where, name))
    return kind(**values)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Must the key be in a file? The schema's name always, although code need not pass it."""
    return field.name == "schema" or (
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def _value(hint: Any, data: Any, key: Key, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only `X | None` is used
        return None if data is None else _value(args[0], data, key, where)
    if origin is typing.Literal:
        if data not in args:
            raise ReportError(f"expected one of {', '.join(map(repr, args))}, got {data!r}", where=where)
        return data
    if origin is tuple:
        return _sequence(args, data, key, where)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("type[Any]", hint), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise ReportError(f"expected an object, got {_name(data)}", where=where)
        return {name: _value(args[1], item, key, _join(where, name)) for name, item in data.items()}
    return data if hint is Any else _scalar(hint, data, key, where)


def _sequence(args: tuple[Any, ...], data: Any, key: Key, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise ReportError(f"expected a list, got {_name(data)}", where=where)
    if args[-1] is not ... and len(data) != len(args):
        raise ReportError(f"expected {len(args)} values, got {len(data)}", where=where)
    return tuple(_value(args[0], item, key, f"{where}[{i}]") for i, item in enumerate(data))


def _scalar(hint: Any, data: Any, key: Key, where: str) -> Any:
    numeric = isinstance(data, (int, float)) and not isinstance(data, bool)
    fits = {bool: isinstance(data, bool), str: isinstance(data, str), int: numeric and isinstance(data, int)}
    if not fits.get(hint, numeric):
        raise ReportError(f"expected {hint.__name__}, got {_name(data)}", where=where)
    if numeric and (not math.isfinite(data) or (key.minimum is not None and data < key.minimum)):
        raise ReportError(f"out of range: {data!r}, the least is {key.minimum}", where=where)
    return float(data) if hint is float else data


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _name(data: Any) -> str:
    return "null" if data is None else type(data).__name__
