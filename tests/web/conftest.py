"""Sites for the tests of the web room."""

import json

import pytest
from sites import golden_file

from demucs_np.web import site


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The site of a small model of the published kind, whose file is `small.safetensors` in the folder above."""
    folder = tmp_path_factory.mktemp("web")
    path = golden_file("ht_published", folder / "small.safetensors")
    site.build(folder / "site", [str(path)], report=lambda text: None)
    return folder / "site"


@pytest.fixture(scope="session")
def described(small):
    return json.loads((small / "models.json").read_text())
