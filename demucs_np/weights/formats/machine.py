"""Run the pickles of model files without running what they hold.

A pickle is a program for a small stack machine that may import and call anything. This module interprets the few
instructions that weights need, itself: nothing is imported, names stay text, and the only things ever called are the
constructors in `Machine._calls` below, which build tensors, fractions and numbers. What training programs keep beside the weights,
configurations and optimisers (`INERT`), becomes a `Thing` that holds nothing. Everything else is refused by name.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any, cast

import numpy as np

from ...errors import MAX_INTEGER, WeightsError, shown
from ...models.config import CLASSES
from .bounds import MAX_AXES, bounded
from .stored import ClassName, Stored

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
QUANTIZERS = re.compile(r"diffq(\.\w+)*\.(DiffQuantizer|UniformQuantizer)")
MAX_SIZE = 1 << 40


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass
class _NumpyType:
    """A numpy.dtype of a number, as its constructor and state describe it."""

    code: str
    byteorder: str = "<"


def _integers(values: Any) -> tuple[int, ...]:
    result = tuple(values)
    if not all(type(value) is int and 0 <= value <= MAX_SIZE for value in result):
        raise ValueError("bad tensor geometry")
    return result


def _ordered_dict(*args: Any) -> dict[Any, Any]:
    if not args:
        return {}
    (items,) = args
    return {_key(key): value for key, value in items}


def _key(value: Any) -> Any:
    """A key of a dict: nothing whose hash is that of what it holds."""
    if value is not None and not isinstance(value, (str, int, float, bytes)):
        raise TypeError(f"{shown(value)} as a key")
    return value


def _fraction(*args: Any) -> Fraction:
    """`Fraction("39/5")`, or `Fraction(39, 5)` from newer Pythons."""
    if len(args) == 1 and isinstance(args[0], str) and re.fullmatch(r"-?\d{1,30}(/\d{1,30})?", args[0]):
        return Fraction(args[0])
    if len(args) == 2 and all(type(value) is int for value in args):
        return Fraction(*args)
    raise ValueError("bad fraction")


def _numpy_type(code: Any, *_: Any) -> _NumpyType:
    if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1", code) or code == "f1":
        raise ValueError(f"numpy type {shown(code)}")
    return _NumpyType(code)


def _numpy_scalar(kind: Any, data: Any) -> bool | int | float:
    """A numpy scalar as Python's number."""
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
        raise TypeError("numpy scalar")
    array = np.frombuffer(data, np.dtype(kind.byteorder + kind.code))
    value: bool | int | float = array.reshape(()).item()
    return value


def _encode(text: Any, encoding: Any = None) -> bytes:
    """`_codecs.encode(text, "latin1")` is how protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("encoding")
    return text.encode("latin1")


_MARK = object()


# Classes of what lies beside the weights. They are passed over, never imported and never built.
INERT = re.compile(
    r"(omegaconf|antlr4|hydra|ml_collections|torch\.optim|pathlib|typing)(\.\w+)+|argparse\.Namespace|torch\.(device|Size)|enum\.\w*Enum"
    r"|collections\.(defaultdict|deque|Counter)|(builtins|__builtin__)\.(dict|list|tuple|set|str|unicode|bytes|int|long|float|bool|object|NoneType)"
    r"|copy_?reg\._reconstructor"
)


@dataclass(frozen=True, eq=False)
class Thing:
    """An object that was passed over."""

    name: str


class Machine:
    """The stack machine of pickle, down to the instructions that plain data need."""

    def __init__(self, tensor_data: Callable[[str, str, int], np.ndarray]) -> None:
        self._tensor_data = tensor_data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls: Mapping[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "collections.OrderedDict": _ordered_dict,
            "fractions.Fraction": _fraction,
            "numpy.dtype": _numpy_type,
            "numpy.core.multiarray.scalar": _numpy_scalar,
            "numpy._core.multiarray.scalar": _numpy_scalar,
            "_codecs.encode": _encode,
        }

    def run(self, program: bytes | mmap.mmap) -> Any:
        """The object that the program builds; a file is left where it ends. Raises WeightsError for what is refused or malformed."""
        try:
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], program)):
                if opcode.name == "STOP":
                    return bounded(self._stack.pop())
                if type(argument) is int and abs(argument) >= MAX_INTEGER:
                    raise ValueError("a number of many digits")
                if opcode.name in _PUSHED:
                    self._stack.append(argument)
                elif opcode.name in _CONSTANTS:
                    self._stack.append(_CONSTANTS[opcode.name]())
                else:
                    self._step(opcode.name, argument)
        except WeightsError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
            raise WeightsError(f"damaged or foreign pickle ({str(error)[:120]})") from None
        raise WeightsError("damaged or foreign pickle (it has no end)")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "TUPLE":
            stack.append(tuple(self._pop_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(self._top(count))]
        elif name == "APPEND":
            item = stack.pop()
            self._add(list, lambda target: target.append(item))
        elif name == "APPENDS":
            items = self._pop_mark()
            self._add(list, lambda target: target.extend(items))
        elif name == "SETITEM":
            key, value = self._top(2)
            del stack[-2:]
            self._add(dict, lambda target: target.update({_key(key): value}))
        elif name == "SETITEMS":
            items = self._pop_mark()
            self._add(dict, lambda target: target.update(zip(map(_key, items[::2]), items[1::2], strict=True)))
        elif name == "GLOBAL":
            stack.append(self._global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, member = self._top(2)
            stack[-2:] = [self._global(module, member)]
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._top(2)
            stack[-2:] = [self._call(function, arguments)]
        elif name == "NEWOBJ" and isinstance(stack[-2], ClassName) and INERT.fullmatch(stack[-2].name):
            function, _ = self._top(2)
            stack[-2:] = [Thing(function.name)]
        elif name == "BUILD":
            state = stack.pop()
            self._build(stack[-1], state)
        else:
            raise WeightsError(f"refused: its pickle uses the instruction {name}, which a package of weights does not need")

    def _top(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) != count or _MARK in items:
            raise ValueError("stack underflow")
        return items

    def _pop_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _add(self, kind: type, change: Callable[[Any], object]) -> None:
        """Add to the list or dict on top; what is passed over takes nothing."""
        target = self._stack[-1]
        if isinstance(target, Thing):
            return
        if type(target) is not kind:
            raise TypeError(f"no {kind.__name__} to add to")
        change(target)

    def _global(self, module: Any, member: Any) -> ClassName:
        name = f"{module}.{member}"
        if name in self._calls or name in STORAGES or name in CLASSES or QUANTIZERS.fullmatch(name) or INERT.fullmatch(name):
            return ClassName(name)
        raise WeightsError(f"refused: it names {shown(name)}, which a package of weights does not need; nothing in the file was run")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, ClassName) or not isinstance(arguments, tuple):
            raise TypeError("call of no function")
        if INERT.fullmatch(function.name):
            return Thing(function.name)
        if function.name not in self._calls:
            raise WeightsError(f"refused: it calls {shown(function.name)}; nothing in the file was run")
        return self._calls[function.name](*arguments)

    def _build(self, target: Any, state: Any) -> None:
        """The state of an object just made: the byte order of a numpy type; an OrderedDict's attributes mean nothing here."""
        if isinstance(target, _NumpyType):
            if state[1] not in ("<", ">", "|", "="):
                raise ValueError(f"byte order {shown(state[1])}")
            target.byteorder = state[1]
        elif type(target) is not dict and not isinstance(target, Thing):
            raise TypeError("state of an object that has none")

    def _persistent(self, identity: Any) -> _Storage | ClassName:
        if len(identity) == 4 and identity[0] == "module" and isinstance(identity[1], ClassName):
            return identity[1]  # the legacy format keeps a class with its source text, which is not looked at
        kind, storage, key, _, count, *view = identity  # the legacy format adds where a storage is a view of another: never, since 0.4
        if view not in ([], [None]):
            raise ValueError("a storage inside another")
        if kind != "storage" or not isinstance(storage, ClassName) or storage.name not in STORAGES:
            raise ValueError(f"storage {shown(storage)}")
        if not isinstance(key, str) or not re.fullmatch(r"\w{1,40}", key):
            raise ValueError(f"storage key {shown(key)}")
        return _Storage(STORAGES[storage.name], key, *_integers([count]))

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Stored:
        """A view of a storage. Trailing arguments (gradient, hooks, metadata) mean nothing here."""
        if not isinstance(storage, _Storage):
            raise TypeError("tensor without storage")
        (offset,), size, stride = _integers([offset]), _integers(size), _integers(stride)
        if len(size) != len(stride) or len(size) > MAX_AXES:
            raise ValueError("bad tensor geometry")
        data = self._tensor_data(storage.dtype, storage.key, storage.count)
        if 0 in size:
            return Stored(storage.dtype, np.empty(size, data.dtype))
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if last >= storage.count:
            raise WeightsError("damaged archive: a tensor reaches beyond its storage")
        if math.prod(size) > storage.count:
            raise WeightsError("refused: it repeats the numbers of a tensor; save it with `contiguous()` once")
        strides = [step * data.itemsize for step in stride]
        return Stored(storage.dtype, np.lib.stride_tricks.as_strided(data[offset:], size, strides, writeable=False))


# Instructions that put their argument on the stack, and those that put a fixed value there.
_PUSHED = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
