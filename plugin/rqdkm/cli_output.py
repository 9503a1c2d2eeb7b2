"""What verbs print: tables on a console as wide as they need, JSON, and plain lists of figures."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rqdkm.report.schema import Report


def console() -> Console:
    """stdout; wide enough for the tables when it is not a terminal."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=140)


def print_report(found: Report, *, json: bool, details: bool) -> None:
    from rqdkm.report import codec, table

    if json:
        print(codec.to_json(found), end="")
    else:
        screen = console()
        screen.print(table.render(found, details=details, width=screen.width))


def print_hint(text: str, json: bool) -> None:
    """A line for people: on stdout below the tables, but never beside JSON."""
    print(text, file=sys.stderr if json else sys.stdout)


def as_mapping(values: Any) -> dict[str, Any]:
    return dataclasses.asdict(values) if dataclasses.is_dataclass(values) else dict(values)  # type: ignore[arg-type]


def print_mapping(values: dict[str, Any], json: bool) -> None:
    import json as codec

    if json:
        print(codec.dumps(values, indent=1))
        return
    for name, value in values.items():
        print(f"{name:<18}{_as_text(value)}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        apart = "\n" + " " * 18 if value and isinstance(value[0], (dict, list)) else " "
        return apart.join(map(_as_text, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
