"""Frozen dataclasses to JSON and back, led by their type hints. Tensors go into a dict beside it.

str, int, bool, None    as they are
float                   a JSON number, which Python reads back bit for bit; {"float": "nan" | "inf" | "-inf"}
tuple                   a list
dict with str keys      {"dict": {...}}
dataclass               {field: ...}
tensor                  {"tensor": its name}
"""

from __future__ import annotations

import dataclasses
import math
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray
from torch import Tensor

from excise.errors import StoreError

T = TypeVar("T")
REPEAT = "It was saved by another version of Excise: use that one, or repeat the stage."


def encode(value: Any, hint: Any, tensors: dict[str, Tensor], where: str = "") -> Any:
    """`value` as JSON; its tensors are added to `tensors`. Raises StoreError where value and hint differ."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else encode(value, _some(hint), tensors, where)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, tuple):
        return [
            encode(item, kind, tensors, f"{where}[{number}]")
            for number, (item, kind) in enumerate(zip(value, _kinds(args, len(value), where), strict=True))
        ]
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {
            "dict": {key: encode(item, args[1], tensors, f"{where}[{key!r}]") for key, item in sorted(value.items())}
        }
    if dataclasses.is_dataclass(hint) and type(value) is hint:
        hints = get_type_hints(hint)
        return {
            field.name: encode(getattr(value, field.name), hints[field.name], tensors, f"{where}.{field.name}")
            for field in dataclasses.fields(hint)
        }
    if _is_tensor(hint) and isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise StoreError(
        f"{where or 'value'}: expected {hint}, found {type(value).__name__}, which cannot be saved as that."
    )


def decode(content: Any, hint: type[T], tensors: dict[str, Tensor], where: str) -> T:
    """What `encode` was given; raises StoreError where the content does not fit the hint."""
    value: T = _decode(content, hint, tensors, where)
    return value


def _decode(content: Any, hint: Any, tensors: dict[str, Tensor], where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if content is None else _decode(content, _some(hint), tensors, where)
    if origin is Literal and any(content == arg and type(content) is type(arg) for arg in args):
        return content
    if origin is tuple and isinstance(content, list):
        kinds = _kinds(args, len(content), where)
        return tuple(
            _decode(item, kind, tensors, f"{where}[{number}]")
            for number, (item, kind) in enumerate(zip(content, kinds, strict=True))
        )
    if origin is dict and isinstance(content, dict) and isinstance(content.get("dict"), dict):
        return {key: _decode(item, args[1], tensors, f"{where}[{key!r}]") for key, item in content["dict"].items()}
    if dataclasses.is_dataclass(hint) and isinstance(content, dict):
        return _dataclass(content, hint, tensors, where)
    if _is_tensor(hint) and isinstance(content, dict):
        tensor = tensors.get(str(content.get("tensor")))
        if tensor is not None and (hint is Tensor or isinstance(tensor, hint)):
            return tensor
        raise StoreError(f"{where}: expected {hint}, found {'no tensor' if tensor is None else tensor.shape}. {REPEAT}")
    if hint is float and isinstance(content, dict) and content.get("float") in ("nan", "inf", "-inf"):
        return float(content["float"])
    if hint in (float, str, int, bool) and type(content) is hint:
        return content
    raise StoreError(f"{where}: expected {hint}, found {str(content)[:60]}. {REPEAT}")


def _dataclass(content: dict[str, Any], hint: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Every field; one that is missing takes its default, one that is unknown is an error."""
    fields = {field.name: field for field in dataclasses.fields(hint)}
    unknown = sorted(set(content) - set(fields))
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(content))
    if unknown or missing:
        raise StoreError(
            f"{where}: expected the fields of {hint.__name__}, found unknown {unknown} and missing {missing}. {REPEAT}"
        )
    hints = get_type_hints(hint)
    return hint(
        **{name: _decode(item, hints[name], tensors, f"{where}.{name}") for name, item in content.items()},
    )


def _some(hint: Any) -> Any:
    """X of `X | None`."""
    rest = [arg for arg in get_args(hint) if arg is not type(None)]
    if len(rest) != 1 or len(rest) == len(get_args(hint)):
        raise StoreError(f"{hint}: expected a type or None, found another union, which cannot be saved.")
    return rest[0]


def _kinds(args: tuple[Any, ...], count: int, where: str) -> list[Any]:
    """The type of each item of a tuple."""
    if len(args) == 2 and args[1] is Ellipsis:
        return [args[0]] * count
    if len(args) != count:
        raise StoreError(f"{where}: expected {len(args)} items, found {count}. {REPEAT}")
    return list(args)


def _is_tensor(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Tensor | AbstractArray)
