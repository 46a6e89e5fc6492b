"""The only place that names Numba flags."""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types
from numba.core import cgutils, codegen, compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic, typeof_impl
from numba.np import arrayobj

from ..threads import undisturbed
from . import machine
from .cache import cache_of

# NUMBA_DISABLE_JIT=1: kernels run as Python, for debuggers and coverage
DISABLED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]

SUMS = {"reassoc", "nsz", "contract"}  # sums may be split into vector lanes; NaN and infinity keep their meaning (no nnan, ninf)
EXACT = {"nsz", "contract"}  # for functions whose rounding tricks rely on the order of operations
if os.environ.get("DEMUCS_NP_FMA") == "0":  # else LLVM would fuse again what the matrix product does not
    SUMS, EXACT = SUMS - {"contract"}, EXACT - {"contract"}
if os.environ.get("DEMUCS_NP_REASSOC") == "0":
    SUMS = SUMS - {"reassoc"}

Function = Callable[..., Any]
CONSTANTS = "_ZN08NumbaEnv"  # the names by which code finds its Python objects begin with this


class _Library(codegen.JITCodeLibrary):
    """The code of a kernel and of all that it calls: text until machine code is made, once, of all together.

    Numba by itself optimises each function, copies it into those that call it, and makes machine code of each.
    """

    deferred = False  # within `emit`

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._own: list[str] = []
        self._names: list[str] = []  # what may be looked for in the machine code
        self._final = not _Library.deferred

    def add_ir_module(self, module: Any) -> None:
        self._own.append(cgutils.normalize_ir_text(str(module)))
        self._names += [function.name for function in module.functions if not function.is_declaration]
        self._names += [name for name in module.globals if name.startswith(CONSTANTS) and name not in self._names]

    def add_linking_library(self, library: Any) -> None:
        if library is not rtsys.library:  # it counts references
            self._linking_libraries.append(library)

    def parts(self) -> list[str]:
        """The kernel's own code, then that of all that it calls, each once."""
        libraries: list[Any] = [self]
        for library in libraries:
            libraries += [other for other in library._linking_libraries if other not in libraries and other is not rtsys.library]
        return [part for library in libraries for part in _text(library)]

    def finalize(self) -> None:
        if self._final:
            self.finish(self.make(self.parts()))
            self._finalize_final_module()
        self._finalized = True

    def make(self, parts: Sequence[str]) -> bytes:
        """The machine code of these parts."""
        return machine.code(parts, self._codegen._tm, *settings()[1])

    def finish(self, code: bytes) -> None:
        """Take the machine code."""
        self._compiled_object = self.code = code
        constants = [name for name in self._names if name.startswith(CONSTANTS)]
        functions = [name for name in self._names if not name.startswith(CONSTANTS)]
        stubs = [f'@"{name}" = global ptr null' for name in constants] + [f'define void @"{name}"() {{ ret void }}' for name in functions]
        self._final_module = llvm.parse_assembly("\n".join(stubs))

    def serialize_using_object_code(self) -> Any:
        return self.name, "object", (self.code, self._final_module.as_bitcode())

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        address: int = self._codegen._engine.get_function_address(name) if self._final else 0
        return address

    @property
    def codegen(self) -> Any:
        return self._codegen if self._final else self

    def set_env(self, name: str, env: Any) -> None:
        """There is no machine code yet that would look for it."""

    def get_llvm_str(self) -> str:
        return str(machine.linked(self.parts()))


class _Emitted(_Library):
    """The code of a function that only kernels call. Numba makes machine code of it, too."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._final = False

    def add_ir_module(self, module: Any) -> None:
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"  # as Numba has it: it may be left out
        super().add_ir_module(module)


def _text(library: Any) -> list[str]:
    """The code of a function, one of Numba's own perhaps, which is optimised and compiled by the time."""
    return library._own if isinstance(library, _Library) else [str(library._get_module_for_linking())]


def emit(kernel: Any, signature: tuple[Any, ...]) -> Any:
    """A compiled kernel in all but its machine code, which is to be made of `library.parts()`."""
    with global_compiler_lock, _collecting_nothing():
        _Library.deferred = True
        try:
            return kernel._compiler.compile(signature, None)
        finally:
            _Library.deferred = False


def settings() -> tuple[dict[str, Any], tuple[int, bool, bool]]:
    """What Numba tells LLVM: the machine's options, and the last arguments of `machine.code`."""
    config: Any = numba.config
    options = {"opt": int(config.OPT)}
    cpu_target.target_context.codegen()._customize_tm_options(options)
    return options, (int(config.OPT), bool(config.LOOP_VECTORIZE), bool(config.SLP_VECTORIZE))


class _Types:
    """Numba's typing context, which here remembers what it finds for operators on numbers: it tries a dozen ways each time."""

    known: ClassVar[dict[Any, Any]] = {}

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: Any, keywords: Any) -> Any:
        plain = tuple(map(types.unliteral, args))
        if keywords or getattr(getattr(function, "typing_key", None), "__module__", None) != "_operator" or not all(map(_is_number, plain)):
            return self._context.resolve_function_type(function, args, keywords)
        key = function, plain
        if key not in self.known:
            self.known[key] = self._context.resolve_function_type(function, plain, keywords)
        return self.known[key]


def _is_number(of: Any) -> bool:
    return isinstance(of, types.Number | types.Boolean)


class _Lower(Lower):
    """Numba's way from its own code to LLVM's, which here remembers the operators on numbers, too: each time it asks whether there is one
    for constants, and catches four exceptions that say no."""

    known: ClassVar[dict[Any, Any]] = {}

    def lower_binop(self, result: Any, expression: Any, operation: Any) -> Any:
        signature = self.fndesc.calltypes[expression]
        if operation in (operator.pow, operator.ipow) or not all(map(_is_number, signature.args)):  # of powers there is
            return super().lower_binop(result, expression, operation)
        key = operation, signature.args
        if key not in self.known:
            function = self.context.typing_context.resolve_value_type(operation)
            self.known[key] = function, function.get_call_type(self.context.typing_context, signature.args, {})
        code = self.context.get_function(*self.known[key])
        operands = [
            self.context.cast(self.builder, self.loadvar(operand.name), self.typeof(operand.name), of)
            for operand, of in zip((expression.lhs, expression.rhs), signature.args, strict=True)
        ]
        return self.context.cast(self.builder, code(self.builder, operands), signature.return_type, result)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "kernel_lowering"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Lower


# Passes over a function for what kernels do not have: closures, generators, expressions of whole arrays, `with` blocks, loops over tuples.
NEEDLESS = {
    "WithLift", "InlineClosureLikes", "InlineInlinables", "InlineOverloads", "FindLiterallyCalls", "LiteralUnroll",
    "MakeFunctionToJitFunction", "GenericRewrites", "NopythonRewrites", "PreParforPass", "ParforPass", "IRLegalization",
    "DumpParforDiagnostics",
}  # fmt: skip


def _code_of(find: Function, function: Any, signature: Any, **how: bool) -> Any:
    """As a context's `get_function`, but arrays are plain ones: that they have no "__array__" Numba would find out anew for each."""
    if function == "__array__":
        raise NotImplementedError
    return find(function, signature, **how)


class _Compiler(compiler.Compiler):
    """Compile a kernel."""

    library = _Library

    def define_pipelines(self) -> Any:
        (pipeline,) = super().define_pipelines()
        steps = [step for step in pipeline.passes if step[0].__name__ not in NEEDLESS]
        pipeline.passes = [(_Lowering if step is NativeLowering else step, *told) for step, *told in steps]
        pipeline._finalized = False
        pipeline.finalize()
        return [pipeline]

    def compile_extra(self, function: Any) -> Any:
        context = self.state.targetctx
        context.get_function = functools.partial(_code_of, context.get_function)
        self.state.typingctx = _Types(self.state.typingctx)
        self.state.library = self.library(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class _Emitter(_Compiler):
    """Compile a function that only kernels call."""

    library = _Emitted


def _jit(function: Function, fastmath: set[str], **options: Any) -> Any:
    """error_model="numpy": a division is no branch, and its loop vectorises. What Numba would make besides, an entry for C and the counting
    of references to arrays, which kernels neither make nor keep, would take a fifth of the time to compile."""
    njit: Any = numba.njit
    return njit(error_model="numpy", fastmath=fastmath, no_cfunc_wrapper=True, _nrt=False, **options)(function)


def kernel(function: Function) -> Function:
    """Compile at the first call, without the GIL, and keep the result on disk. Sums may be reordered into vector lanes."""
    dispatcher = _jit(function, SUMS, nogil=True, pipeline_class=_Compiler)
    if not DISABLED:
        dispatcher._cache = cache_of(function)  # as `cache=True` does with Numba's own
        dispatcher.compile = undisturbed()(_collecting_nothing()(dispatcher.compile))
    compiled: Function = dispatcher
    return compiled


@contextlib.contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Within the block there is no search for cycles in the many objects that a compiler makes: a fifth of its time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def inline(function: Function) -> Function:
    """As `kernel`, for functions that only kernels call; from Python it is the plain function."""
    return _for_kernels(function, SUMS)


def exact(function: Function) -> Function:
    """As `inline`, and nothing is reordered."""
    return _for_kernels(function, EXACT)


class _ForKernels:
    """A function as kernels call it, without what Numba makes for calls from Python."""

    def __init__(self, function: Function, fastmath: set[str]) -> None:
        self.function = function
        self.dispatcher = _jit(function, fastmath, no_cpython_wrapper=True, pipeline_class=_Emitter)
        self._resolve = self.dispatcher.get_call_template
        self.dispatcher.get_call_template = self._once

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def _once(self, args: Any, keywords: Any) -> Any:
        """Compile once for each type of argument. Numba would compile again for each literal (0, False) in an argument's place."""
        return self._resolve([types.unliteral(arg) for arg in args], {name: types.unliteral(arg) for name, arg in keywords.items()})


@typeof_impl.register(_ForKernels)
def _type_of(value: _ForKernels, context: Any) -> Any:
    return types.Dispatcher(value.dispatcher)


def _for_kernels(function: Function, fastmath: set[str]) -> Function:
    return function if DISABLED else _ForKernels(function, fastmath)


if DISABLED:

    def view(array: Any, start: int, size: int) -> Any:
        """`size` elements from `start`."""
        return array[start : start + size]

    def view_as(array: Any, start: int, size: int, dtype: Any) -> Any:
        """The memory from element `start` on as `size` elements of another type."""
        return array[start:].view(np.uint8)[: size * np.dtype(dtype).itemsize].view(dtype)

    def numbers(array: Any, count: int) -> Any:
        """The first `count` elements."""
        return array[:count].tolist()
else:

    def _part(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        """Code of `view` and `view_as`."""
        array, start, size = args[:3]
        out = context.make_array(sig.return_type)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(sig.return_type.dtype)))
        data = builder.gep(context.make_array(sig.args[0])(context, builder, array).data, [start])
        data = builder.bitcast(data, context.get_data_type(sig.return_type.dtype).as_pointer())
        arrayobj.populate_array(out, data=data, shape=[size], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return out._getvalue()

    @intrinsic
    def view(typingctx: Any, array: Any, start: Any, size: Any) -> Any:
        """`array[start : start + size]` of a flat array, unchecked and uncounted.

        A slice normalises its bounds and counts a reference: tens of nanoseconds, which rows of 48 floats feel, and threads that
        count references to the same array wait for each other.
        """
        return types.Array(array.dtype, 1, "C")(array, types.intp, types.intp), _part

    @intrinsic
    def view_as(typingctx: Any, array: Any, start: Any, size: Any, dtype: Any) -> Any:
        """`size` elements of another type in the memory from element `start` on, also unchecked: `array[start : ...].view(dtype)`, whose
        checks would take a third of a second to compile."""
        return types.Array(dtype.dtype, 1, "C")(array, types.intp, types.intp, dtype), _part

    @intrinsic(prefer_literal=True)
    def numbers(typingctx: Any, array: Any, count: Any) -> Any:
        """The first `count` elements, a literal, as a tuple. Unpacking an array would check its length after every element."""
        signature = types.UniTuple(array.dtype, count.literal_value)(array, count)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            values = [builder.load(builder.gep(data, [context.get_constant(types.intp, i)])) for i in range(sig.return_type.count)]
            return context.make_tuple(builder, sig.return_type, values)

        return signature, codegen
