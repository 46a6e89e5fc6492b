"""The docs: references to code exist, links lead somewhere, quoted code is the code, the tour runs; the files to read are short."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from demucs_np.commands.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "demucs_np"
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
READING = ["hybrid.py", "htdemucs.py", "blocks.py", "transformer.py", "spectral.py"]

FILE = re.compile(r"[\w./-]+\.(py|md|ipynb|png|toml|safetensors|flac|wav)")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
CALL = re.compile(r"[a-z_]\w*\(\.*\)")
# First parts of dotted names that are not ours: other packages, and module paths of the models.
FOREIGN = {"np", "numpy", "numba", "torch", "demucs", "llvmlite", "soundfile", "model", "nn", "ops", "math", "self"}
UPSTREAM = re.compile(
    r"t?(en|de)coder|crosstransformer|channel_(up|down)sampler(_t)?|freq_emb|layers(_t)?|lstm|norm_in(_t)?|(self|cross)_attn"
)
EXAMPLES = {"song", "taps", "track", "model", "g", "mymodel", "my_model"}  # files that a reader may have


def text_of(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands between backquotes, outside blocks of code."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def names_of(node: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    """What a module or class defines: functions, classes, variables, fields, and what methods assign to self."""
    found: dict[str, ast.AST] = {}
    for item in node.body:
        if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            found[item.name] = item
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = item
        elif isinstance(item, ast.Assign):
            for name in ast.walk(ast.Tuple(item.targets, ast.Store())):
                if isinstance(name, ast.Name):
                    found[name.id] = item
    if isinstance(node, ast.ClassDef):
        for attribute in ast.walk(node):
            if isinstance(attribute, ast.Attribute) and isinstance(attribute.value, ast.Name) and attribute.value.id == "self":
                found.setdefault(attribute.attr, attribute)
    return found


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
MODULES: dict[str, list[ast.Module]] = {}
CLASSES: dict[str, list[ast.ClassDef]] = {}
FUNCTIONS: set[str] = set()
for _path, _tree in TREES.items():
    MODULES.setdefault(_path.parent.name if _path.stem == "__init__" else _path.stem, []).append(_tree)
    for _node in ast.walk(_tree):
        if isinstance(_node, ast.ClassDef):
            CLASSES.setdefault(_node.name, []).append(_node)
        elif isinstance(_node, ast.FunctionDef):
            FUNCTIONS.add(_node.name)


def inherited(classes: list[ast.ClassDef]) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in classes:
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in CLASSES:
                found |= inherited(CLASSES[base.id])
        found |= names_of(node)
    return found


def exists(dotted: str) -> bool:
    """Whether `module.name`, `Class.name` or `module.Class.name` is in the package."""
    first, *rest = dotted.split(".")
    if first in ("dn", "demucs_np"):
        import demucs_np

        return rest[0] in dir(demucs_np) or (PACKAGE / rest[0]).is_dir() or exists(".".join(rest))
    if first in CLASSES:
        return not rest or rest[0] in inherited(CLASSES[first])
    for tree in MODULES.get(first, []):
        found = names_of(tree)
        if not rest or (rest[0] in found and (len(rest) == 1 or exists(".".join(rest)))):
            return True
    return False


def test_the_check_itself() -> None:
    for name in (
        "blocks.DConv.__call__",
        "DConv.__call__",
        "spectral.spectrogram",
        "hybrid.Hybrid.forward",
        "HTDemucs.forward",
        "dn.trace",
    ):
        assert exists(name), name
    for name in ("blocks.DConv.nothing", "blocks.Nothing", "nowhere.spectrogram", "DConv.nothing", "dn.nothing"):
        assert not exists(name), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_references_exist(page: Path) -> None:
    missing = []
    for span in spans(page):
        if FILE.fullmatch(span):
            places = [ROOT, PACKAGE, ROOT / "docs", PACKAGE / "models", PACKAGE / "kernels", ROOT / "tests"]
            known = any((place / span).exists() for place in places) or re.split(r"[./]", span)[-2] in EXAMPLES
        elif DOTTED.fullmatch(span):
            first = span.split(".")[0]
            known = first in FOREIGN or bool(UPSTREAM.fullmatch(first)) or exists(span)
        elif CALL.fullmatch(span):
            known = span.split("(")[0] in FUNCTIONS | set(CLASSES)
        else:
            continue
        if not known:
            missing.append(span)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Every `demucs-np word --option` is one."""
    for line in re.findall(r"demucs-np ([^`\n]+)", text_of(page)):
        word, *rest = line.split("#")[0].split() or [""]
        if word not in COMMANDS:
            continue
        command = main.get_command(click.Context(main), word)
        assert command is not None
        if isinstance(command, click.Group):
            continue
        options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {"--help", "-h"}
        used = [option.split("=")[0].strip("[]|.,;)") for option in rest if option.lstrip("[").startswith("-")]
        assert {option for option in used if re.fullmatch(r"-\w|--[\w-]+", option)} <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_code_is_the_code(page: Path) -> None:
    """A block whose first line is a comment with a file's name stands in that file, word for word."""
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        first, _, code = block.partition("\n")
        file = ROOT / first.removeprefix("# ")
        if file.is_file():
            assert code.strip() in file.read_text(encoding="utf-8")
        else:
            ast.parse(block)


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "pictures").glob("*.png"))
    assert pictures
    assert sum(picture.stat().st_size for picture in pictures) < 1_500_000
    shown = {Path(name).name for page in PAGES for name in re.findall(r"pictures/([\w.-]+\.png)", page.read_text(encoding="utf-8"))}
    assert {picture.name for picture in pictures} <= shown


def test_reading_takes_an_hour() -> None:
    """The four files that are the model: under 900 lines together, and each product says at its end what it makes of the shape."""
    lines = [line for name in READING for line in (PACKAGE / "models" / name).read_text(encoding="utf-8").splitlines()]
    assert len(lines) < 900
    products = [line for line in lines if re.search(r"ops\.(conv|feed_forward|attention|stft|istft)\(", line)]
    assert len(products) > 15
    assert [line for line in products if not re.search(r"# .*\[.+\]", line)] == []


def test_the_tour_holds_no_outputs() -> None:
    for cell in json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


PICTURES, PLAYERS = 4, 3  # that the tour shows


def needs() -> str:
    missing = [name for name in ("nbclient", "ipykernel", "matplotlib") if importlib.util.find_spec(name) is None]
    return " and ".join(missing)


@pytest.mark.skipif(bool(needs()), reason=f"{needs()} not installed")
def test_the_tour_runs() -> None:
    """In a process of its own: the warnings of Jupyter are not ours."""
    run = (
        "import nbclient, nbformat; book = nbformat.read('tour.ipynb', 4); nbclient.NotebookClient(book, timeout=600).execute(); "
        "print(nbformat.writes(book))"
    )
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = []
    for cell in json.loads(done.stdout)["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert output["output_type"] != "stream" or output["name"] == "stdout", output
            kinds += [kind for kind in ("image/png", "text/html") if kind in data] or (["text/plain"] if data else [])
            assert "<Figure" not in "".join(data.get("text/plain", "")) or "image/png" in data, "a picture that nobody sees"
    assert kinds.count("image/png") == PICTURES
    assert kinds.count("text/html") == PLAYERS
