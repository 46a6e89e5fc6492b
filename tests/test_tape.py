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
from demucs_np.operations.tape import record, replay
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.threads import use_threads

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


def recorded(path):
    golden = load_golden(path)
    model = seeded_model(golden, "numba")
    return golden, model, golden.mix.shape[2]


@pytest.mark.parametrize("path", [path for path in GOLDEN if path.stem.startswith("ht_")], ids=lambda path: path.stem)
def test_replay_has_the_bits_of_the_forward_pass(path):
    golden, model, length = recorded(path)
    config = model.config
    if not config.cac or config.t_emb == "scaled" or config.multi_freqs or config.nfft & (config.nfft - 1) or has_recurrent(model):
        with pytest.raises(ModelError, match="this model cannot be recorded"):
            record(model, length)
        return
    recording = record(model, length)
    tape = json.loads(recording.json())
    for threads in (1, 2):
        with use_threads(threads):
            ours = replay(tape, recording.weights, recording.constants, golden.mix[0])
        assert np.array_equal(ours, model(golden.mix)[0])
    assert record(model, length) == recording


def has_recurrent(model):
    return any(layer[2] for part in (*model.encoder, *model.decoder) if getattr(part, "dconv", None) for layer in part.dconv.layers)


def test_a_tape_is_of_a_length_and_fits_another_input():
    _, model, length = recorded(next(path for path in GOLDEN if path.stem == "ht_published"))
    recording = record(model, length)
    assert len(recording.json()) < 100_000
    mix = noise(2, length)
    assert np.array_equal(replay(recording.tape, recording.weights, recording.constants, mix), model(mix[None])[0])
    shorter = record(model, length - 1000)
    mix = mix[:, : length - 1000]
    assert np.array_equal(replay(shorter.tape, shorter.weights, shorter.constants, mix), model(mix[None])[0])


def _separate(model, mix, results):
    results.put(model(mix)[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.skipif(DISABLED, reason="needs compiled kernels")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_models_work_in_a_child_after_use(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no start method {method}")
    golden, model, _ = recorded(next(path for path in GOLDEN if path.stem == "ht_published"))
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
    golden, model, _ = recorded(next(path for path in GOLDEN if path.stem == "ht_published"))
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(other(golden.mix), model(golden.mix))
