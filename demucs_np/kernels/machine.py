"""From the code that Numba emits, LLVM's in text form, to machine code: the half of compiling that needs LLVM alone, and no Numba.

It is also what the helper runs (`ahead.py`), which is therefore there within a tenth of a second.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

# Of LLVM's levels. By the third, Numba's, and the passes that Numba runs before it, kernels are no faster, and take a sixth longer to make.
SPEED = 2


def linked(parts: Sequence[str]) -> Any:
    """One module of all parts."""
    module, *others = (llvm.parse_assembly(part) for part in parts)
    for other in others:
        module.link_in(other)
    return module


def code(parts: Sequence[str], machine: Any, speed: int, loops: bool, lines: bool) -> bytes:
    """The object file of a kernel. First comes its own part, then those of the functions that it calls.

    `speed`, and whether loops and straight lines are turned into vector code, are NUMBA_OPT, NUMBA_LOOP_VECTORIZE, NUMBA_SLP_VECTORIZE.
    """
    module = linked(parts)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=min(speed, SPEED))
    options.loop_vectorization, options.slp_vectorization = loops, lines
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    for function in module.functions:  # Numba numbers names in each process: another object's function may have the name of one in here
        if not function.is_declaration and function.linkage != llvm.Linkage.external:
            function.linkage = "internal"
    made: bytes = machine.emit_object(module)
    return made


def serve() -> None:
    """The helper. Standard input has a line of JSON with the machine's options and the last arguments of `code`, then lines with `parts`;
    each is answered with a line that says how many bytes of machine code follow, 0 if none can be made."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)  # in the midst of a kernel, too

    threading.Thread(target=read, daemon=True).start()
    options, tuning = json.loads(lines.get())
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)
    while True:
        parts = json.loads(lines.get())
        try:
            made = code(parts, machine, *tuning)
        except Exception:  # it fails again, and is told, in the process that calls the kernel
            made = b""
        sys.stdout.buffer.write(b"%d\n" % len(made) + made)
        sys.stdout.buffer.flush()
