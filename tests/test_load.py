"""From names and paths to models: files, folders of the user's own, published names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import packages
import pytest
from packages import Archive, package

from demucs_np.errors import ModelError, UsageError, WeightsError
from demucs_np.models.bag import BagOfModels
from demucs_np.models.demucs import Demucs
from demucs_np.weights import catalog, hub, list_models, load_model
from demucs_np.weights.repo import read_bag


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    packages.write(folder / "one.safetensors", packages.draw(seed=1))
    archive = Archive()
    archive.write(folder / "two.th", package(archive, packages.draw(seed=2)))
    return folder


def test_paths(repo: Path) -> None:
    one = load_model(repo / "one.safetensors", backend="numpy")
    assert isinstance(one.only, Demucs)
    assert (one.config, one.segment, one.weights) == (one.only.config, 1.5, [[1, 1]])
    assert (one.sources, one.backend) == (("a", "b"), "numpy")
    assert isinstance(load_model(str(repo / "two.th"), backend="numpy").only, Demucs)


def test_a_folder_of_models_and_bags(repo: Path) -> None:
    (repo / "both.yaml").write_text("models: ['one', 'two', 'one']\nweights: [\n  [1., 0.],\n  [0., 2.],\n  [1., 1.],\n]\nsegment: 1.25\n")
    (repo / "notes.txt").write_text("not a model")
    assert list_models(repo) == {"bag": ["both"], "single": ["one", "two"]}
    bag = load_model("both", repo=repo, backend="numpy")
    assert isinstance(bag, BagOfModels)
    assert bag.weights == [[1, 0], [0, 2], [1, 1]]
    assert [model.segment for model in bag.models] == [1.25] * 3
    assert isinstance(load_model("two", repo=repo, backend="numpy").only, Demucs)
    mix = np.random.default_rng(0).standard_normal((1, 2, 3000)).astype(np.float32)
    one, two = (load_model(name, repo=repo, backend="numpy")(mix) for name in ("one", "two"))
    np.testing.assert_allclose(bag(mix)[:, 0], one[:, 0], rtol=1e-6)
    np.testing.assert_allclose(bag(mix)[:, 1], (2 * two[:, 1] + one[:, 1]) / 3, rtol=1e-4, atol=1e-6)


def test_a_signature_that_a_bag_names_twice_is_loaded_once(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demucs_np.weights import resolve as load

    (repo / "twice.yaml").write_text("models: [one, two, one]\n")
    read: list[str] = []
    original = load.read_model_file
    monkeypatch.setattr(load, "read_model_file", lambda path: read.append(Path(path).name) or original(path))
    bag = load_model("twice", repo=repo, backend="numpy")
    assert isinstance(bag, BagOfModels)
    assert len(bag.models) == 3
    assert read == ["one.safetensors", "two.th"]


def test_published_names_in_a_folder(repo: Path) -> None:
    """What a machine without a network needs: the files, by their signatures."""
    packages.write(repo / "955717e8.safetensors", packages.draw())
    assert isinstance(load_model("htdemucs", repo=repo, backend="numpy"), BagOfModels)
    with pytest.raises(ModelError, match=r"has no 5c90dfd2\.safetensors or 5c90dfd2\.th"):
        load_model("htdemucs_6s", repo=repo)
    with pytest.raises(UsageError, match="memory is -1, but must be a number of bytes"):
        load_model("htdemucs", repo=repo, memory=-1)
    with pytest.raises(ModelError, match="has neither a model nor a bag named 'three'; it has 955717e8, one, two"):
        load_model("three", repo=repo)


def test_duplicates_and_checksums_in_a_folder(repo: Path) -> None:
    packages.write(repo / "two.safetensors", packages.draw(seed=3))  # beside two.th: preferred
    assert isinstance(load_model("two", repo=repo, backend="numpy").only, Demucs)
    (repo / "one.safetensors").rename(repo / "one-00000000.safetensors")
    with pytest.raises(WeightsError, match="not with 00000000 as its name says"):
        load_model("one", repo=repo)
    packages.write(repo / "one.safetensors", packages.draw(seed=1))
    with pytest.raises(WeightsError, match="both of the signature one; delete all but one"):
        load_model("two", repo=repo)
    with pytest.raises(UsageError, match="--repo must be an existing folder"):
        load_model("two", repo=repo / "none")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2]", "not a mapping of names to values"),
        ("models: [", "not valid YAML"),
        ("models: !!python/object/apply:os.system ['touch x']", "not valid YAML"),
        ("segment: 3", "'models' must be a list of signatures"),
        ("models: []", "'models' must be a list of signatures"),
        ("models: [12345678]", "put the signature 12345678 in quotes"),
        ("models: [a]\nweights: [1, 0]", "'weights' must be a list of lists"),
        ("models: [a]\nweights: [[x]]", "'weights' must be a list of lists"),
        ("models: [a]\nsegment: long", "'segment' must be a number"),
        ("models: [a]\nweight: [[1]]", "unknown entry 'weight'"),
    ],
)
def test_bags_that_are_none(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bag.yaml"
    path.write_text(text)
    with pytest.raises(WeightsError) as error:
        read_bag(path)
    assert str(error.value).startswith(f"{path}: ")
    assert problem in str(error.value)


def test_published_names_come_from_the_cache(tmp_path: Path) -> None:
    def put(repository: str, filename: str) -> Path:
        path = tmp_path / "hf/hub" / f"models--{repository.replace('/', '--')}" / "snapshots/main" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    for number, signature in enumerate(catalog.BAGS["mdx"].signatures):
        kwargs = {**packages.KWARGS, "sources": list(catalog.STEMS)}
        tensors = packages.draw(kwargs=kwargs, seed=number)
        packages.write(put("adefossez/Demucs-mdx", f"{signature}.safetensors"), tensors, packages.metadata(kwargs=kwargs))
    bag = load_model("mdx", backend="numpy")
    assert isinstance(bag, BagOfModels)
    assert bag.weights == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]
    assert [model.segment for model in bag.models] == [44] * 4
    assert isinstance(load_model("0d19c1c6", backend="numpy").only, Demucs)
    # Another owner's bag.
    put("someone/HTDemucs-mine", "htdemucs_mine.yaml").write_text("models: ['one']\n")
    packages.write(put("someone/HTDemucs-mine", "one.safetensors"), packages.draw())
    for name in ("hf://someone/htdemucs_mine", "someone/htdemucs_mine"):
        assert isinstance(load_model(name, backend="numpy"), BagOfModels)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        load_model("hf://htdemucs")


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown model 'htdemucz': did you mean htdemucs\?"):
        load_model("htdemucz")
    with pytest.raises(ModelError, match="published are htdemucs, htdemucs_ft"):
        load_model("spleeter")
    with pytest.raises(WeightsError, match=r"none\.safetensors: no such file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="a folder; name a model's file in it"):
        load_model(tmp_path)


def test_catalogue() -> None:
    assert list_models()["bag"] == [*catalog.BAGS, *catalog.OTHERS]
    assert "demo" in list_models()["single"]
    assert len(catalog.BAGS) == 11
    assert {signature for bag in catalog.BAGS.values() for signature in bag.signatures} == catalog.LEGACY.keys()
    for bag in catalog.BAGS.values():
        assert bag.weights is None or [len(row) for row in bag.weights] == [len(bag.stems)] * len(bag.signatures)
    assert catalog.hub_repository("htdemucs_ft") == "adefossez/HTDemucs-ft"
    assert catalog.hub_repository("mdx_extra_q") == "adefossez/Demucs-mdx_extra_q"
    assert catalog.hub_repository("htdemucs", "me") == "me/HTDemucs"
    assert catalog.homes("fa0cb7f9") == ["adefossez/Demucs-repro_mdx_a", "adefossez/Demucs-repro_mdx_a_hybrid_only"]
    assert hub.find("955717e8") is None
