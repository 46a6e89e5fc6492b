"""Every command takes every kind of name that a model can have."""

from __future__ import annotations

from pathlib import Path

import packages
import pytest
from click.testing import CliRunner
from files import song
from packages import Archive, package

from demucs_np.commands.main import main
from demucs_np.errors import ModelError, UsageError
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.weights import catalog, load_model
from demucs_np.weights.resolve import resolve

GOLDEN = Path(__file__).parent / "golden" / "ht_mono.safetensors"
SIGNATURE = "955717e8"
KINDS = {
    "a published name": "htdemucs",
    "a signature": SIGNATURE,
    "the bundled model": "demo",
    "a file": "mine.safetensors",
    "an official package": "folder/old.th",
    "a bag's file": "folder/bag.yaml",
    "a bag on the hub": "hf://someone/tiny",
    "a bag in a folder": "bag --repo folder",
    "a model in a folder": "old --repo folder",
}
COMMANDS = {  # the word NAME stands for the name, and FILE for a file to write
    "separate": "song.wav --stems STEM --backend numpy --shifts 0 -n NAME -o out",
    "verify": f"{GOLDEN} --backend numpy -n NAME",
    "inspect": "NAME --depth 1",
    "trace": "song.wav --backend numpy --layers encoder.0 -o FILE -n NAME",
    "convert": "NAME FILE",
    "models info": "NAME",
    "models download": "NAME",
    "models verify": "NAME",
    "models path": "NAME",
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One small model in all the places where a name may lead, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    golden = load_golden(GOLDEN)
    kwargs = golden.config.constructor_arguments()
    tensors = draw_tensors(golden.weights["seed"], expected_tensors(golden.config))

    def put(repository: str, filename: str) -> Path:
        path = tmp_path / "hf/hub" / f"models--{repository.replace('/', '--')}" / "snapshots/main" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "mine.safetensors", put("adefossez/HTDemucs", f"{SIGNATURE}.safetensors"), put("someone/Demucs-tiny", "abc.safetensors")
    ):  # fmt: skip
        packages.write(path, tensors, packages.metadata(golden.klass, kwargs))
    put("someone/Demucs-tiny", "tiny.yaml").write_text("models: [abc]\n")
    archive = Archive()
    archive.write(tmp_path / "folder/old.th", package(archive, tensors, golden.klass, kwargs))
    (tmp_path / "folder/bag.yaml").write_text("models: [old]\n")
    song(tmp_path / "song.wav", 1500, 1, golden.config.samplerate)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_every_kind_of_name(command: str, name: str) -> None:
    name, *repo = name.split(" ", 1)
    stem = resolve("demo").sources[0] if name == "demo" else load_golden(GOLDEN).config.sources[0]
    words = COMMANDS[command].replace("NAME", name).replace("FILE", "written.safetensors").replace("STEM", stem)
    result = CliRunner().invoke(main, f"{command} {words} {repo[0] if repo else ''}".split())
    if command == "verify" and name == "demo":  # found, and not what the golden file was made from
        assert result.exit_code == 2
        assert "demo: not the weights that the golden file was made from" in result.output
        return
    assert result.exit_code == 0, result.output
    if command == "separate":
        folder = {"mine.safetensors": "mine", "folder/old.th": "old", "folder/bag.yaml": "bag", "hf://someone/tiny": "someone_tiny"}
        assert [path.name for path in Path("out").iterdir()] == [folder.get(name, name)]
    if command in ("trace", "convert"):
        assert Path("written.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS.keys())
def test_every_name_gives_one_type(name: str) -> None:
    name, *repo = name.split(" --repo ")
    model = load_model(name, repo=repo[0] if repo else None, backend="numpy")
    assert type(model).__name__ == "BagOfModels"
    assert model.config is model.only.config
    assert len(model.weights) == len(model.models) == 1


def test_models_list_names_the_bundled_one() -> None:
    result = CliRunner().invoke(main, ["models", "list"])
    (line,) = [line for line in result.output.splitlines() if line.startswith("demo ")]
    assert line.split()[:5] == ["demo", "4", f"{catalog.DEMO_FILE.stat().st_size / 1e6:.0f}", "MB", "yes"]


def test_what_needs_one_model_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"htdemucs_ft is a bag of 4 models; name one of them: f7e0c4bc, d12395a8, 92cfc3b6, 04573f0d"):
        resolve("htdemucs_ft").only()
    Path("folder/none.yaml").write_text("models: [old, nowhere]\n")
    with pytest.raises(ModelError, match=r"folder has no nowhere\.safetensors or nowhere\.th"):
        resolve("folder/none.yaml")
