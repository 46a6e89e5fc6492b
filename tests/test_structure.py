"""The house: nothing imports upwards, functions stay short, calls stay readable, every command has one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from demucs_np.commands.main import COMMANDS

PACKAGE = Path(__file__).parents[1] / "demucs_np"
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

# From the ground up: a room may use what stands before it.
ROOMS = [
    "errors", "threads", "steps", "machine",
    "kernels", "operations", "models",
    "weights", "audio", "separation", "api",
    "jobs", "parity", "inspection", "demo",
    "page", "web", "studio", "batch",
    "commands",
]  # fmt: skip
# The public names, which `demucs_np/__init__.py` fetches when they are asked for, and the entry point.
FRONT = {"__init__", "__main__"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LINES = 60
ARGUMENTS = 8  # of a call, by position


def room_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of this package, wherever in the file it stands."""
    package = ["demucs_np", *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin == "demucs_np" else [origin]
        else:
            continue
        for name in names:
            if name.startswith("demucs_np."):
                yield node.lineno, name.split(".")[1]


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in TREES} - FRONT == set(ROOMS)


def test_nothing_imports_upwards() -> None:
    upwards = [
        f"{path}:{line} imports {room}"
        for path, tree in TREES.items()
        if room_of(path) not in FRONT
        for line, room in imports(path, tree)
        if room in ROOMS and ROOMS.index(room) > ROOMS.index(room_of(path))
    ]
    assert not upwards


def test_functions_are_short() -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and (lines := length(node)) > LINES
    ]
    assert not long


def length(node: ast.AST) -> int:
    """Lines of a function without those of the functions in it; of a command's, those of its body, since its options are a table."""
    assert isinstance(node, FUNCTIONS)
    assert node.end_lineno is not None
    first = node.body[0].lineno if any("click" in ast.dump(decorator) for decorator in node.decorator_list) else node.lineno
    inner = {id(part): part for part in ast.walk(node) if isinstance(part, FUNCTIONS) and part is not node}
    within = {id(part) for outer in inner.values() for part in ast.walk(outer) if part is not outer}
    whole = sum(part.end_lineno - part.lineno + 1 for key, part in inner.items() if key not in within and part.end_lineno)
    return node.end_lineno - first + 1 - whole


def test_calls_name_their_arguments() -> None:
    """Kernels apart: what is compiled takes its arguments by position."""
    crowded = [
        f"{path}:{node.lineno} passes {len(node.args)} arguments by position"
        for path, tree in TREES.items()
        if room_of(path) != "kernels"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) > ARGUMENTS
    ]
    assert not crowded


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_file(name: str) -> None:
    assert COMMANDS[name][:2] == (f".{name}", name)


@pytest.mark.parametrize("name", ["conv", "winograd"])
def test_kernels_take_their_numbers_in_the_order_that_is_written_down(name: str) -> None:
    tree = TREES[Path("kernels") / f"{name}.py"]
    (geometry,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Geometry"]
    fields = [item.target.id for item in geometry.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    (kernel,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == f"_{name}_tiles"]
    taken = f"numbers(geometry, {len(fields)})"
    unpacked = next(node for node in kernel.body if isinstance(node, ast.Assign) and ast.unparse(node.value) == taken)
    assert ast.unparse(unpacked.targets[0]).strip("()").split(", ") == fields
