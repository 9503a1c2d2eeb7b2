"""Options of the custom operators: a FlexBuffers map whose keys are listed in ``tflm_ops/tflm/option_keys.h``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from flatbuffers import flexbuffers  # type: ignore[import-untyped]

from rqdkm_tvm.sources import tflm_ops_dir

Value = int | str | Sequence[int] | Sequence[Mapping[str, int | str | Sequence[int]]]


@cache
def _header() -> str:
    return (tflm_ops_dir() / "tflm" / "option_keys.h").read_text()


def keys() -> tuple[str, ...]:
    """The keys that the operators read, in the order of the list."""
    return tuple(re.findall(r"^ +KEY\((\w+)\)", _header(), re.MULTILINE))


def version() -> int:
    """Of the options; operators refuse others."""
    found = re.search(r"#define RQDKM_OPTIONS_VERSION (\d+)", _header())
    assert found is not None
    return int(found[1])


def encode(layer: str, values: Mapping[str, Value]) -> bytes:
    """The options of one node.

    Args:
        layer: name of the layer, for messages of the operator.
        values: by key; integers, texts, lists of 32-bit integers, or lists of such maps.

    Raises:
        KeyError: a key that is not in the list.
    """
    builder = flexbuffers.Builder()
    _add_map(builder, {"version": version(), "layer": layer, **values})
    return bytes(builder.Finish())


def _add_map(builder: Any, values: Mapping[str, Any]) -> None:
    with builder.Map():
        for key, value in values.items():
            if key not in keys():
                raise KeyError(key)
            builder.Key(key)
            if isinstance(value, str):
                builder.String(value)
            elif isinstance(value, int):
                builder.Int(value)
            elif value and isinstance(value[0], Mapping):
                with builder.Vector():
                    for item in value:
                        _add_map(builder, item)
            else:
                builder.TypedVectorFromElements([int(item) for item in value])


def decode(data: bytes) -> dict[str, Value]:
    """What :func:`encode` wrote, ``version`` and ``layer`` included.

    Raises:
        ValueError: says what is wrong with them: damaged, keys that nobody knows, values of another type.
    """
    try:
        pairs = _pairs(bytearray(data))
    except ValueError:
        raise
    except Exception as error:  # the library checks nothing: IndexError, struct.error, UnicodeDecodeError, ...
        raise ValueError("its options are damaged") from error
    unknown = sorted(set(pairs) - set(keys()))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}")
    if pairs.get("version") != version():
        raise ValueError(f"options of version {pairs.get('version')}, this reader knows {version()}")
    return pairs


def _pairs(data: bytearray) -> dict[str, Value]:
    root = flexbuffers.GetRoot(data)
    if not root.IsMap:
        raise ValueError("its options are no map")
    entries = root.AsMap
    if len(entries) > len(keys()):
        raise ValueError("its options are damaged")
    found: dict[str, Value] = {}
    for key, value in zip(entries.Keys, entries.Values, strict=True):
        name = str(key.AsKey)
        if value.IsString:
            found[name] = str(value.AsString)
        elif value.IsInt:
            found[name] = int(value.AsInt)
        elif value.IsTypedVector:
            items = value.AsTypedVector
            if len(items) > len(data):
                raise ValueError("its options are damaged")
            found[name] = [int(item.AsInt) for item in items]
        elif value.IsVector and name == "steps":
            raise ValueError("it is an operator of rqdkm tflm export: deploy the file that was exported")
        else:
            raise ValueError(f"option {name!r} is neither an integer nor a list of them nor a text")
    return found
