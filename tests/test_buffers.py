"""Who owns which buffer: every golden configuration under an arena that notices what is freed twice, used after, or left over."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from checking_arena import CheckingArena

from demucs_np.errors import UsageError
from demucs_np.models.bag import BagOfModels
from demucs_np.models.config import HDemucsConfig
from demucs_np.models.hdemucs import HDemucs
from demucs_np.models.layout import expected_tensors
from demucs_np.operations.compiled import thread_arena, use_arena
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model

GOLDENS = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_every_configuration_gives_back_what_it_takes(path):
    golden = load_golden(path)
    model = seeded_model(golden, "numba")
    arena = CheckingArena()
    with use_arena(arena):
        checked = model(golden.mix)
    arena.check()
    taken = thread_arena().taken
    assert model(golden.mix).tobytes() == checked.tobytes()
    assert thread_arena().taken == taken


def small(seed=1, **arguments):
    config = HDemucsConfig(("vocals", "rest"), **({"channels": 4, "depth": 3, "nfft": 256, "dconv_comp": 1} | arguments))
    return HDemucs(config, draw_tensors(seed, expected_tensors(config)), "numba")


def test_a_computation_that_fails_leaves_nothing():
    model, arena = small(hybrid=False), CheckingArena()
    with use_arena(arena), pytest.raises(UsageError):
        model(np.zeros((2, 2, 100), np.float32))
    arena.check()


def test_a_bag_needs_no_more_memory_than_one_of_its_models():
    def largest(model):
        """Floats in use at once."""
        high = 0

        class Counting(CheckingArena):
            def take(self, *shape):
                nonlocal high
                array = super().take(*shape)
                high = max(high, sum(size for _, _, size in self._blocks.values()))
                return array

        with use_arena(Counting()):
            model(np.zeros((1, 2, 20000), np.float32))
        return high

    models = [small(seed) for seed in range(4)]
    assert len({id(model.ops.arena) for model in models}) == 1
    assert largest(BagOfModels(models)) <= 1.15 * largest(models[0])


def test_models_can_be_copied_and_pickled():
    model, mix = small(), np.random.default_rng(0).standard_normal((1, 2, 5000)).astype(np.float32)
    expected = model(mix)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other(mix), expected)
