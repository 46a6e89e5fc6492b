"""Tapes: recorded without computing, replayed with the bits of the forward pass."""

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from kernel_checks import noise

from demucs_np.errors import ModelError
from demucs_np.kernels._jit import DISABLED
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.threads import use_threads
from demucs_np.web.tape import Player, record, text
from demucs_np.weights.catalog import ARCHITECTURES, BAGS

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


def recorded(path):
    golden = load_golden(path)
    return golden, draw_tensors(golden.weights["seed"], expected_tensors(golden.config)), golden.mix.shape[2]


@pytest.mark.parametrize("path", [path for path in GOLDEN if path.stem.startswith("ht_")], ids=lambda path: path.stem)
def test_replay_has_the_bits_of_the_forward_pass(path):
    """Also where the weights are made by the tape: what it opens is what the model holds."""
    golden, tensors, length = recorded(path)
    model = seeded_model(golden, "numba")
    config = model.config
    if not config.cac or config.t_emb == "scaled" or config.multi_freqs or config.nfft & (config.nfft - 1):
        with pytest.raises(ModelError, match=r"^this HTDemucs cannot be recorded: .*, for which NumPy computes between the kernels$"):
            record(config, length)
        return
    tape = json.loads(text(record(config, length)))
    player = Player(tape)
    for threads in (1, 2):
        with use_threads(threads):
            player.open(tensors)
            ours = player.play(golden.mix[0])
        assert np.array_equal(ours, model(golden.mix)[0])
    assert record(config, length) == tape


@pytest.mark.parametrize("path", [path for path in GOLDEN if path.stem.startswith(("hd_", "td_"))], ids=lambda path: path.stem)
def test_other_models_are_refused_by_name(path):
    golden = load_golden(path)
    with pytest.raises(ModelError, match=r"^demucs\.\w+\.\w+ cannot be recorded: .*; HTDemucs can be$"):
        record(golden.config, golden.mix.shape[2])


def test_a_tape_fits_another_input_and_other_weights():
    golden, tensors, length = recorded(next(path for path in GOLDEN if path.stem == "ht_published"))
    tape = record(golden.config, length)
    assert len(text(tape)) < 100_000
    player = Player(tape)
    player.open({name: noise(*tensor.shape) for name, tensor in tensors.items()})
    player.open(tensors)
    mix = noise(2, length)
    assert np.array_equal(player.play(mix), seeded_model(golden, "numba")(mix[None])[0])


def test_a_full_size_tape_is_small():
    """As published: four stems, and six."""
    for sources in (4, 6):
        klass, arguments = ARCHITECTURES[BAGS["htdemucs" if sources == 4 else "htdemucs_6s"].signatures[0]]
        config = config_from_arguments(klass, (), arguments)
        tape = record(config, 343980)
        assert tape["sources"] == sources
        assert len(text(tape)) < 100_000
        assert sum(tape["regions"].values()) < 420e6


def _separate(model, mix, results):
    results.put(model(mix)[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.skipif(DISABLED, reason="needs compiled kernels")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_models_work_in_a_child_after_use(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no start method {method}")
    golden = load_golden(next(path for path in GOLDEN if path.stem == "ht_published"))
    model = seeded_model(golden, "numba")
    with use_threads(2):
        truth = model(golden.mix)[0]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_separate, args=(model, golden.mix, results))
    child.start()
    try:
        assert np.array_equal(results.get(timeout=120), truth)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()


def test_models_can_be_pickled():
    golden = load_golden(next(path for path in GOLDEN if path.stem == "ht_published"))
    model = seeded_model(golden, "numba")
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(other(golden.mix), model(golden.mix))
