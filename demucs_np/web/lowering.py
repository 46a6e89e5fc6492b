"""Numba kernels as WebAssembly objects. As a program, in a process that has compiled nothing yet: `python -m demucs_np.web.lowering`.

Numba hands over the LLVM code that it emits for this machine; it is given another target and optimised for that one. What a kernel
takes as arrays and integers of 64 bits gets a wrapper that reads addresses and counts of 32 bits, of which nothing is left when the
optimiser has put both into one function. This leans on methods that Numba keeps to itself: `modules.TRIED` says with which versions.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from .tape import TYPES, every_kernel

TRIPLE = "wasm32-unknown-unknown"
FEATURES = "+simd128,+bulk-memory,+bulk-memory-opt,+atomics,+mutable-globals,+sign-ext,+nontrapping-fptoint"
RELAXED = ",+relaxed-simd"
PREFIX = "k"  # of exported names: a kernel's own may begin with an underscore, and `_start` would be taken for something else


def switch_off_optimiser() -> None:
    """Let Numba hand over what it emits, not what it has made of it for this machine."""
    from numba.core import codegen

    library: Any = codegen.CPUCodeLibrary
    library._optimize_functions = lambda self, module: None
    library._optimize_final_module = lambda self: None


def target(relaxed: bool) -> Any:
    """The machine that code is made for."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = FEATURES + (RELAXED if relaxed else "")
    return llvm.Target.from_triple(TRIPLE).create_target_machine(cpu="generic", features=features, opt=3, reloc="static")


def lower(dispatcher: Any, codes: str, machine: Any) -> Any:
    """The optimised LLVM module of a kernel whose arguments, after the scratch buffer, are flat arrays of these types (`tape.TYPES`)."""
    from numba import types
    from numba.core.caching import NullCache
    from numba.np.numpy_support import from_dtype

    arrays = [types.Array(from_dtype(TYPES[code]), 1, "C") for code in "f" + codes]
    signature = (types.intp, types.intp, *arrays)
    dispatcher._cache = NullCache()  # what was kept is this machine's, and what is made here is no machine's
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    export = PREFIX + dispatcher.py_func.__name__
    text = compiled.library.get_llvm_str() + _wrapper(export, compiled.fndesc.llvm_func_name, codes)
    module = _retargeted(text, machine, export)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    if undefined := [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]:
        raise NotImplementedError(f"{export} calls {', '.join(undefined)}, which WebAssembly does not have")
    return module


def _wrapper(export: str, inner: str, codes: str) -> str:
    """`export(tile0, tile1, scratch, its size, arguments)`; arguments are pairs of 32 bits: address and number of elements."""
    lines: list[str] = []
    operands = ["ptr %ret", "ptr %exception", "i64 %tile0", "i64 %tile1"]

    def array(pointer: str, count: str, size: int) -> None:  # meminfo, parent, nitems, itemsize, data, shape, strides
        operands.extend(["ptr null", "ptr null", f"i64 {count}", f"i64 {size}", f"ptr {pointer}", f"i64 {count}", f"i64 {size}"])

    array("%scratch", "%nscratch", 4)
    for j, code in enumerate(codes):
        lines += [
            f"%a{j} = getelementptr i8, ptr %arguments, i32 {8 * j}", f"%p{j} = load ptr, ptr %a{j}",
            f"%b{j} = getelementptr i8, ptr %arguments, i32 {8 * j + 4}", f"%c{j} = load i32, ptr %b{j}", f"%n{j} = zext i32 %c{j} to i64",
        ]  # fmt: skip
        array(f"%p{j}", f"%n{j}", TYPES[code].itemsize)
    body = "\n  ".join(lines)
    return f"""
define void @{export}(i32 %t0, i32 %t1, ptr %scratch, i32 %size, ptr %arguments) {{
  %ret = alloca ptr
  %exception = alloca ptr
  %tile0 = sext i32 %t0 to i64
  %tile1 = sext i32 %t1 to i64
  %nscratch = zext i32 %size to i64
  {body}
  %status = call i32 @"{inner}"({", ".join(operands)})
  ret void
}}
"""


def _retargeted(text: str, machine: Any, export: str) -> Any:
    text = re.sub(r'target triple = ".*"', f'target triple = "{TRIPLE}"', text)
    text = re.sub(r'target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', text)
    # Arrays are borrowed, so counting references does nothing; libm's square root is an instruction.
    text = re.sub(r"(define [^\n]*@NRT_(?:in|de)cref\([^\n]*\{\n).*?\n\}", r"\1  ret void\n}", text, flags=re.S)
    text = text.replace("@sqrt(", "@llvm.sqrt.f64(")
    # A fused multiply-add is a call on this target, unless it may also be a product and a sum: then it is one relaxed instruction.
    text = text.replace("@llvm.fma.v", "@llvm.fmuladd.v")
    module = llvm.parse_assembly(text)
    for item in (*module.functions, *module.global_variables):
        if not item.is_declaration and item.name != export:
            item.linkage = "internal"
    for function in module.functions:  # V8 runs a kernel 3 % faster where the loops over a panel are functions of their own
        if "_over_rows" in function.name and not function.is_declaration:
            function.add_function_attribute("noinline")
    return module


def main() -> None:
    """`lowering FOLDER plain|relaxed KERNELS.json`: an object file for each kernel; KERNELS.json: name -> types of its arguments."""
    folder, kind, wanted = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
    switch_off_optimiser()
    machine, kernels = target(kind == "relaxed"), every_kernel()
    for name, codes in wanted.items():
        (folder / f"{name}.o").write_bytes(machine.emit_object(lower(kernels[name], codes, machine)))


if __name__ == "__main__":
    main()
