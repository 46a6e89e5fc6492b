"""Unpack a quantised state (DiffQ, or uniform) into plain float32 tensors.

Such a state stores parameters as lists without names, in the model's registration order. Those of at most `min_size` MiB
(as float32) are kept as they are, in `others` or `float16`; the rest are in `quantized`:

- uniform: `(levels, (min, max))`, all levels `bits` wide;
- DiffQ: `(levels by width 1, 2, ..., (min, max), widths - min_bits, ...)`. The flat parameter is a row of groups of `group_size`
  values with a width each; the levels of all groups of one width are packed together.

A level l of b bits stands for `l / (2**b - 1) * (max - min) + min`. Packed bits lie in planes: bit `b` of a number is in
plane `b`, and within a plane 32 (or `groups`) words hold one bit of each of 64 (or 16) times as many numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import WeightsError, shown
from .stored import FLOATS, Stored, as_float32

MIN_BITS = 2  # DiffQ's default
UNIFORM_BITS = 8  # the uniform quantizer's default
MAX_BITS = 15
MOST, SMALL = 64, 1 << 20  # parameters a byte, and in all where there are hardly any bytes
BLOCK = 32  # lines of 2048 numbers


def restore(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of a quantised state, for the parameters `shapes` (name -> shape, in registration order).

    Raises WeightsError, naming the parameter where there is one, if the state does not hold exactly these parameters.
    """
    meta = state.get("meta")
    kwargs = meta.get("init_kwargs") if isinstance(meta, Mapping) else None
    if not isinstance(kwargs, Mapping):
        raise WeightsError("its quantised state has no meta.init_kwargs")
    limit = _number(kwargs, "min_size") * 2**20 / 4
    _check_size(state, shapes)
    small = [name for name, shape in shapes.items() if math.prod(shape) <= limit]
    large = [name for name, shape in shapes.items() if math.prod(shape) > limit]
    plain = [*_list(state, "others"), *_list(state, "float16")]
    packed = _list(state, "quantized")
    if len(plain) != len(small) or len(packed) != len(large):
        found, needed = f"{len(packed)} quantised and {len(plain)} plain", f"{len(large)} and {len(small)}"
        raise WeightsError(f"its quantised state holds {found} parameters, the model needs {needed}")
    tensors = dict.fromkeys(shapes, np.empty(0, np.float32))
    for name, stored in zip(small, plain, strict=True):
        tensors[name] = _plain(name, stored, shapes[name])
    for name, entry in zip(large, packed, strict=True):
        try:
            tensors[name] = _unquantize(entry, kwargs, math.prod(shapes[name])).reshape(shapes[name])
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise WeightsError(f"tensor {name} is badly quantised: {error}") from None
    return tensors


def _check_size(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError for a model far larger than what is packed: levels of no bits take no room in a file, and all in memory."""
    waiting: list[Any] = [state.get(key) for key in ("others", "float16", "quantized")]
    packed = 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, Stored):
            packed += item.array.nbytes
    wanted = sum(math.prod(shape) for shape in shapes.values())
    if wanted > MOST * packed + SMALL:
        raise WeightsError(f"its quantised state has {packed} bytes, far too few for the model's {wanted} parameters")


def _plain(name: str, stored: Any, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(stored, Stored) or stored.dtype not in FLOATS or stored.array.shape != shape:
        found = f"{stored.dtype} {stored.array.shape}" if isinstance(stored, Stored) else type(stored).__name__
        raise WeightsError(f"tensor {name} of its quantised state is {found}, the model needs floats {shape}")
    return as_float32(stored)


def _list(state: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = state.get(key) or []
    if not isinstance(value, (list, tuple)):
        raise WeightsError(f"its quantised state's {key!r} is not a list")
    return value


def _number(kwargs: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = kwargs.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WeightsError(f"its quantised state's {key!r} is {shown(value)}, not a number")
    return value


def _unquantize(entry: Any, kwargs: Mapping[str, Any], count: int) -> np.ndarray:
    """The `count` values of one parameter, flat float32."""
    if len(entry) == 2:
        levels, (low, high) = entry
        return _values(unpack(levels, count), int(_number(kwargs, "bits", UNIFORM_BITS)), low, high)
    levels, (low, high), packed_widths = entry[:3]
    group_size = int(_number(kwargs, "group_size"))
    if group_size < 1 or count % group_size:
        raise ValueError(f"{count} values do not divide into groups of {group_size}")
    if isinstance(levels, Stored):
        return _unpacked(levels.array, packed_widths.array, (count // group_size, group_size), low, high)
    widths = unpack(packed_widths, count // group_size).astype(int) + int(_number(kwargs, "min_bits", MIN_BITS))
    result = np.empty((count // group_size, group_size), np.float32)
    unseen = len(result)
    for width, packed in enumerate(levels, start=1):
        groups = np.flatnonzero(widths == width)
        if len(groups):
            result[groups] = _values(unpack(packed, len(groups) * group_size), width, low, high).reshape(-1, group_size)
            unseen -= len(groups)
    if unseen:
        raise ValueError(f"{unseen} of its groups have no levels")
    return result.reshape(-1)


def _unpacked(levels: np.ndarray, widths: np.ndarray, shape: tuple[int, int], low: Any, high: Any) -> np.ndarray:
    """Values of levels (groups, values) that are stored as whole numbers, as the earliest states have them, with a width per group."""
    if (
        levels.shape != shape
        or widths.shape != shape[:1]
        or levels.dtype.kind not in "iu"
        or not (widths >= 1).all() & (widths <= 15).all()
    ):
        raise ValueError(f"levels {levels.shape} and widths {widths.shape}, not {shape[0]} groups of {shape[1]} values")
    low, high = _scalar(low), _scalar(high)
    result = levels.astype(np.float32)
    result *= (1 / (2.0 ** widths.astype(np.float64) - 1)).astype(np.float32)[:, None]
    result *= np.float32(high - low)
    result += np.float32(low)
    return result.reshape(-1)


def _values(levels: np.ndarray, bits: int, low: Any, high: Any) -> np.ndarray:
    """Levels to values; every step rounds to float32, as when the model was made."""
    low, high = _scalar(low), _scalar(high)
    result = levels.astype(np.float32)
    result *= np.float32(1 / (2**bits - 1))
    result *= np.float32(high - low)
    result += np.float32(low)
    return result


def _scalar(value: Any) -> float:
    return float(value.array.item()) if isinstance(value, Stored) else float(value)


def unpack(packed: Any, count: int) -> np.ndarray:
    """The first `count` numbers (uint16) of a packed array: int64 (lines, planes, 32), or int16 (planes, groups).

    With 64-bit words, number `line*2048 + j*32 + k` has bit b = `(packed[line, b, k] >> j) & 1`; with 16-bit words, number
    `j*groups + g` has bit b = `(packed[b, g] >> j) & 1`. No planes at all: every number is zero.
    """
    if not isinstance(packed, Stored):
        raise TypeError("packed levels are not a tensor")
    words = packed.array
    if packed.dtype == "I64" and words.ndim == 3:
        bits = 64
    elif packed.dtype == "I16" and words.ndim == 2:
        words, bits = words[None], 16
    else:
        raise TypeError(f"packed levels are {packed.dtype} with {words.ndim} axes")
    lines, planes, columns = words.shape
    if planes > MAX_BITS:
        raise ValueError(f"{planes} bits a level")
    if lines * columns * bits < count:
        raise ValueError(f"{lines * columns * bits} packed levels where {count} belong")
    words = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    numbers = np.empty((lines, bits, columns), np.uint16)
    for start in range(0, lines, BLOCK):  # small enough for the cache
        block = words[start : start + BLOCK]
        octets = block.view(np.uint8).reshape(len(block), planes, columns * bits // 8)
        gathered = np.zeros((len(block), columns, bits), np.uint16)
        for plane in range(planes):
            ones = np.unpackbits(octets[:, plane], axis=-1, bitorder="little").reshape(gathered.shape)
            gathered |= np.left_shift(ones, plane, dtype=np.uint16)
        numbers[start : start + BLOCK] = gathered.transpose(0, 2, 1)
    return numbers.reshape(-1)[:count]
