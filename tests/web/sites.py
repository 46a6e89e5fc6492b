"""What the tests of the web room share."""

import shutil
import subprocess
from pathlib import Path

import packages

from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden

GOLDEN = Path(__file__).parents[1] / "golden"


def node_version(node=None):
    node = node or shutil.which("node")
    return int(subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0]) if node else 0


def golden_file(name, path):
    """A golden's model as a published file."""
    golden = load_golden(GOLDEN / f"{name}.safetensors")
    tensors = draw_tensors(golden.weights["seed"], expected_tensors(golden.config))
    return packages.write(path, tensors, packages.metadata(golden.config.klass, golden.config.constructor_arguments()))
