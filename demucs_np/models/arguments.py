"""Constructor arguments as a checkpoint stores them: converted to the fields of a frozen dataclass, or refused with the reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, TypeVar

from ..errors import ModelError, shown

C = TypeVar("C", bound="Arguments")


def _integer(value: object) -> int:
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise TypeError("an integer")
    return int(value)


def _number(value: object) -> int | float | Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)) or not math.isfinite(value):
        raise TypeError("a finite number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise TypeError("true or false")
    return bool(value)


def _groups(value: object) -> int:
    return int(value) if isinstance(value, bool) else _integer(value)


def _layer_index(value: object) -> int | float:
    """From which layer on: also infinity, for never."""
    return value if isinstance(value, float) and math.isinf(value) else _integer(value)


def _items(value: object) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise TypeError("a list")
    return value


def _source_names(value: object) -> tuple[str, ...]:
    names = _items(value)
    for name in names:
        # A stem's name becomes a file's name.
        if not isinstance(name, str) or not name.strip() or name in (".", "..") or any(c in name for c in '/\\\0<>:"|?*\n\r'):
            raise TypeError("a list of names that can be file names")
    if not names or len(set(names)) != len(names):
        raise TypeError("a list of one or more different names")
    return tuple(str(name) for name in names)


def _optional(convert: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else convert(value)


def _choice(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a name")
    return value


# By annotation: how an argument from a checkpoint (JSON or pickle) becomes the field's value, or a TypeError saying what it must be.
_CONVERT: dict[str, Callable[[object], Any]] = {
    "int": _integer,
    "int | bool": _groups,
    "int | float": _layer_index,
    "int | None": _optional(_integer),
    "float": _number,
    "float | None": _optional(lambda value: None if value is False else _number(value)),
    "bool": _flag,
    "str": _choice,
    "Fraction | float | int": _number,
    "tuple[str, ...]": _source_names,
    "tuple[float, ...] | None": _optional(lambda value: tuple(_number(item) for item in _items(value)) or None),
}


class Arguments:
    """What the three configurations share: building from a checkpoint's `args` and `kwargs`, and checks."""

    klass: ClassVar[str]
    _order: ClassVar[str]  # every argument of upstream's constructor, in order
    _unsupported: ClassVar[Mapping[str, str]] = {}  # argument -> why a true value is refused

    @classmethod
    def from_arguments(cls: type[C], args: Sequence[object], kwargs: Mapping[str, object]) -> C:
        """The configuration from the positional and keyword arguments that a checkpoint stores for the constructor.

        Raises ModelError for an argument that is unknown, given twice, of a wrong type, or that inference cannot honour.
        """
        order = cls._order.split()
        if len(args) > len(order):
            raise ModelError(f"{cls.klass} takes at most {len(order)} arguments, not {len(args)}")
        given: dict[str, object] = dict(zip(order, args, strict=False))
        for name, value in kwargs.items():
            if name not in order:
                raise ModelError(f"{cls.klass} has no argument {shown(name)}")
            if name in given:
                raise ModelError(f"{cls.klass}: argument {name!r} is given twice")
            given[name] = value
        for name, reason in cls._unsupported.items():
            if given.get(name):
                raise ModelError(f"{cls.klass}: {name}={shown(given[name])} is not supported: {reason}")
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        converted = {}
        for name, annotation in fields.items():
            if name in given:
                try:
                    converted[name] = _CONVERT[annotation](given[name])
                except TypeError as error:
                    raise ModelError(f"{cls.klass}: argument {name!r} must be {error}, not {shown(given[name])}") from None
        if "sources" not in converted:
            raise ModelError(f"{cls.klass}: argument 'sources' is missing")
        if "end_iters" in given or "wiener_iters" in given:
            cls._check_end_iters(given)
        try:
            return cls(**converted)
        except (ArithmeticError, ValueError) as error:  # of numbers that are finite alone, and not together
            raise ModelError(f"{cls.klass}: its arguments are out of range ({error})") from None

    @classmethod
    def _check_end_iters(cls, given: Mapping[str, object]) -> None:
        """`end_iters` is for training, but the hybrid models insist that it equals `wiener_iters`."""
        testing, training = given.get("wiener_iters", 0), given.get("end_iters", 0)
        if given.get("hybrid", True) and testing != training:
            raise ModelError(f"{cls.klass}: wiener_iters={shown(testing)} must equal end_iters={shown(training)}")

    def constructor_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the reference's constructor."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if "wiener_iters" in arguments:
            arguments["end_iters"] = arguments["wiener_iters"]
        return arguments

    def _require(self, condition: object, text: str) -> None:
        if not condition:
            raise ModelError(f"{self.klass}: {text}")

    def _require_range(self, low: int, high: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(low <= value <= high, f"{name}={value!r} is not between {low} and {high}")

    def _require_groups(self, channels: int, groups: int, what: str) -> None:
        self._require(groups >= 1 and channels % groups == 0, f"{what}: {channels} channels do not divide into {groups} groups")

    def _check_dconv(self, channels: int, compress: float, attention: bool, what: str) -> None:
        hidden = int(channels / compress)
        self._require(hidden >= 1, f"{what}: dconv_comp={compress!r} leaves none of {channels} channels")
        # LocalState has four heads.
        self._require(not attention or hidden % 4 == 0, f"{what}: {hidden} hidden channels do not divide into 4 attention heads")
