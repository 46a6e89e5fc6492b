"""Models of the user's own: names that every command, bags and the studio know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
from click.testing import CliRunner
from packages import Archive, package
from test_formats import MSST, saved

from demucs_np.commands.main import main
from demucs_np.errors import ModelError, WeightsError
from demucs_np.weights import list_models, load_model, own
from demucs_np.weights.files import sha256
from demucs_np.weights.formats import read_model_file
from demucs_np.weights.resolve import resolve


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEMUCS_NP_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_model_gets_a_name(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.yaml").write_text(MSST)
    source = saved(tmp_path / "m.ckpt")
    result = run("models", "add", source, "--as", "mine")
    assert (result.exit_code, result.output) == (0, f"{source} -> {folder / 'mine.safetensors'}\n")
    added, original = read_model_file(folder / "mine.safetensors"), read_model_file(source)
    assert (added.config, added.recipe) == (original.config, original.recipe)
    for name, stored in original.stored.items():
        np.testing.assert_array_equal(added.stored[name].array, stored.array)
    source.unlink()
    assert load_model("mine", backend="numpy").sources == ("vocals", "other")
    assert "mine" in list_models()["single"]
    (line,) = [line for line in run("models", "list").output.splitlines() if line.startswith("mine ")]
    assert line.split()[1] == "2"
    assert line.endswith("your own: vocals, other")
    assert "flat" in run("models", "info", "mine").output
    with pytest.raises(ModelError, match=r"unknown model 'mime': did you mean mine\?"):
        resolve("mime")
    result = run("models", "remove", "mine")
    assert (result.exit_code, result.output) == (0, f"{folder / 'mine.safetensors'} deleted\n")
    assert "no model 'mine' among your own" in run("models", "remove", "mine").output


def test_bags_of_own_models(tmp_path: Path) -> None:
    archive = Archive()
    other = archive.write(tmp_path / "x.th", package(archive, packages.draw(seed=2)))
    for path, name in ((packages.write(tmp_path / "one.safetensors", packages.draw()), "one"), (other, "two")):
        assert run("models", "add", path, "--as", name).exit_code == 0
    bag = tmp_path / "bag.yaml"
    bag.write_text("models: [one, three]\n")
    assert "has no three.safetensors" in run("models", "add", bag, "--as", "both").output
    bag.write_text("models: [one, two]\nweights: [[1, 0], [0, 1]]\n")
    assert len(load_model(bag, backend="numpy").models) == 2
    assert run("models", "add", bag, "--as", "both").exit_code == 0
    assert load_model("both", backend="numpy").weights == [[1, 0], [0, 1]]
    assert "both" in list_models()["bag"]
    (line,) = [line for line in run("models", "list").output.splitlines() if line.startswith("both ")]
    assert line.split()[1] == "2"


def test_stems_get_other_names(tmp_path: Path) -> None:
    source = packages.write(tmp_path / "m.safetensors", packages.draw())
    assert run("models", "add", source, "--as", "kit", "--stems", "kick, snare").exit_code == 0
    assert load_model("kit", backend="numpy").sources == ("kick", "snare")
    assert "has the stems a, b: give 2 names, not 1" in run("models", "add", source, "--as", "no", "--stems", "kick").output


def test_the_shape_of_a_known_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    bare = packages.write(tmp_path / "a" / "bare.safetensors", packages.draw(), {})
    known = packages.write(tmp_path / "known.safetensors", packages.draw())
    target = tmp_path / "out.safetensors"
    assert "tensors alone" in run("convert", bare, target).output
    assert run("convert", bare, target, "--like", known, "--stems", "x,y").exit_code == 0
    assert read_model_file(target).config.sources == ("x", "y")
    assert "--like needs the model's stems" in run("convert", bare, target, "--like", known).output
    assert "--config and --like exclude each other" in run("convert", bare, target, "--like", known, "--config", "x.yaml").output
    assert "not the model that --like htdemucs describes" in run("convert", bare, target, "--like", "htdemucs", "--stems", "x,y").output
    assert "not on this machine" in run("convert", bare, target, "--like", "0d19c1c6", "--stems", "x,y").output


def test_configuration_that_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    source = saved(tmp_path / "a" / "m.ckpt")
    (tmp_path / "c.yaml").write_text(MSST)
    assert run("convert", source, tmp_path / "out.safetensors", "--config", tmp_path / "c.yaml").exit_code == 0
    bag = load_model(source, config=tmp_path / "c.yaml", backend="numpy")
    assert bag.models[0].recipe == load_model(tmp_path / "out.safetensors", backend="numpy").models[0].recipe
    assert not bag.normalize


@pytest.mark.parametrize("name", ["htdemucs", "955717e8", "demo", "../x", "a/b", "", ".x", "x.yaml", "a" * 65])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    result = run("models", "add", packages.write(tmp_path / "m.safetensors", packages.draw()), "--as", name)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert not own.folder().exists()


@pytest.mark.parametrize(
    "recipe", ["{}", "[]", "{", '{"shifts": 0, "overlap": 1, "window": "flat", "normalize": true}',
               '{"shifts": 0, "overlap": 0, "window": "round", "normalize": true}']
)  # fmt: skip
def test_recipes_that_make_no_sense(recipe: str, tmp_path: Path) -> None:
    path = packages.write(tmp_path / "m.safetensors", packages.draw(), packages.metadata(recipe=recipe))
    with pytest.raises(WeightsError, match="its metadata 'recipe'"):
        read_model_file(path)


def test_the_studio_offers_them(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the studio's packages are not installed")
    from demucs_np.studio import models
    from demucs_np.studio.pace import Pace

    run("models", "add", packages.write(tmp_path / "m.safetensors", packages.draw()), "--as", "mine")
    (offer,) = [model for model in models.offered(Pace(tmp_path / "pace.json")) if model["name"] == "mine"]
    assert (offer["stems"], offer["fetch"]) == (["a", "b"], 0)
    assert models.known("mine")
    models.fetch("mine", lambda part: None)


def test_models_that_others_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demucs_np.weights import catalog

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for bag in catalog.OTHERS.values():
        assert set(bag.signatures) <= catalog.ELSEWHERE.keys()
        assert bag.name in run("models", "list").output
    with pytest.raises(ModelError, match="drumsep cannot be fetched by a program"):
        load_model("drumsep")
    with pytest.raises(ModelError, match=r"97d170e1-a778de4a\.th is not on this machine, and HF_HUB_OFFLINE forbids the network"):
        load_model("cdx23")
    kit = {**packages.KWARGS, "sources": ["bombo", "redoblante", "platillos", "toms"]}
    archive = Archive()
    path = tmp_path / "hub" / "checkpoints" / "49469ca8.th"
    path.parent.mkdir(parents=True)
    archive.write(path, package(archive, packages.draw(kwargs=kit), kwargs=kit))
    with pytest.raises(WeightsError, match="not the file of that name that was published"):
        load_model("drumsep")
    assert "CORRUPT" in run("models", "verify", "drumsep").output
    monkeypatch.setitem(catalog.ELSEWHERE, "49469ca8", (None, sha256(path)))
    assert load_model("drumsep", backend="numpy").sources == ("kick", "snare", "cymbals", "toms")
    # The mean of three, run as their own program runs them.
    film = {**packages.KWARGS, "sources": ["music", "sfx", "speech"]}
    for number, name in enumerate(catalog.OTHERS["cdx23"].signatures):
        archive = Archive()
        archive.write(path.with_name(f"{name}.th"), package(archive, packages.draw(kwargs=film, seed=number), kwargs=film))
    bag = load_model("cdx23", backend="numpy")
    assert (len(bag.models), bag.normalize, bag.models[0].recipe.overlap) == (3, False, 0.8)
