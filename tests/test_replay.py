"""Passes that are made from a list of kernel calls: the bits of a forward pass, and never where a forward pass would do something else."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kernel_checks import noise

import demucs_np as dn
from demucs_np.kernels import arena as arenas
from demucs_np.kernels import tiles
from demucs_np.kernels.arena import Arena
from demucs_np.models.network import Network
from demucs_np.operations import replay
from demucs_np.operations.compiled import use_arena
from demucs_np.operations.recording import recording
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.threads import use_threads

GOLDEN = {path.stem: path for path in sorted((Path(__file__).parent / "golden").glob("*.safetensors"))}
HYBRID = [path for name, path in GOLDEN.items() if name.startswith("ht_")]


@pytest.fixture
def golden():
    return load_golden(GOLDEN["ht_published"])


@pytest.fixture
def arena():
    with use_arena(Arena()) as _:
        yield dn.operations.compiled.thread_arena()


def afresh(golden, mix):
    """By a forward pass in an arena of its own."""
    with use_arena(Arena()):
        return seeded_model(golden, "numba")(mix)


def forwards(monkeypatch):
    """How often a model goes through its layers."""
    counted = []
    kind = dn.models.htdemucs.HTDemucs
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, mix, out: (counted.append(mix.shape), forward(self, mix, out))[1])
    return counted


@pytest.mark.parametrize("path", HYBRID, ids=lambda path: path.stem)
def test_the_bits_of_a_forward_pass(path, arena, monkeypatch):
    golden = load_golden(path)
    model, counted = seeded_model(golden, "numba"), forwards(monkeypatch)
    mixes = [golden.mix, noise(*golden.mix.shape), 0.1 * noise(*golden.mix.shape)]
    expected = [afresh(golden, mix) for mix in mixes]
    counted.clear()
    for threads in (1, 2, 3, 1):
        with use_threads(threads):
            for mix, result in zip(mixes, expected, strict=True):
                assert np.array_equal(model(mix), result)
    assert arena.taken == 0
    assert len(counted) == (1 if model.all_kernels else 12)


def test_most_models_of_the_class_are_all_kernels():
    assert sum(seeded_model(load_golden(path), "numba").all_kernels for path in HYBRID) > len(HYBRID) / 2
    assert not any(seeded_model(load_golden(path), "numba").all_kernels for name, path in GOLDEN.items() if not name.startswith("ht_"))


def test_several_lengths_batches_and_models(golden, arena):
    other = load_golden(GOLDEN["ht_cape"])
    n = golden.mix.shape[2]
    one, two = seeded_model(golden, "numba"), seeded_model(other, "numba")
    for size in (n, n // 2, n, n // 2 + 1, n // 2):
        mix = noise(3, 2, size)
        assert np.array_equal(one(mix), afresh(golden, mix))
        assert np.array_equal(two(other.mix), afresh(other, other.mix))
    for size in range(n - 2 * replay.KEPT, n):
        one(noise(1, 2, size))
    assert len(arena.kept) == replay.KEPT


def test_a_trace_an_ablation_and_whoever_looks_at_operations_see_a_forward_pass(golden, arena):
    model = seeded_model(golden, "numba")
    plain = model(golden.mix)
    assert arena.kept
    with dn.trace(layers=["encoder.0"]) as taps:
        assert np.array_equal(model(golden.mix), plain)
    assert set(taps) == {"encoder.0"}
    with dn.trace(layers=[], ablate=["crosstransformer.layers.0.self_attn"]):
        assert not np.array_equal(model(golden.mix), plain)
    with recording(model) as calls:
        assert np.array_equal(model(golden.mix), plain)
    assert {"conv", "attention", "istft"} <= {call.name for call in calls}
    assert np.array_equal(model(golden.mix), plain)


def test_whoever_stands_in_for_the_pool_sees_its_calls(golden, arena):
    class Listing:
        def __init__(self):
            self.pool, self.calls = tiles.pool(), []

        def run(self, kernel, count, scratch, *arrays):
            self.calls.append((kernel.__name__, count, scratch, [array.size for array in arrays]))
            self.pool.run(kernel, count, scratch, *arrays)

    model, lists = seeded_model(golden, "numba"), []
    for _ in range(3):
        listing = Listing()
        with tiles.recording(listing):
            model(golden.mix)
        lists.append(listing.calls)
    assert lists[0] == lists[1] == lists[2]
    assert len(lists[0]) > 100


def test_a_model_that_is_gone_leaves_no_weights(golden, arena):
    model = seeded_model(golden, "numba")
    packed = weakref.ref(model.encoder[0].conv.packed)
    model(golden.mix)
    assert len(arena.kept) == 1
    del model
    gc.collect()
    assert not arena.kept
    assert packed() is None


def test_nothing_of_a_mix_or_a_result_is_held(golden, arena):
    model = seeded_model(golden, "numba")
    for _ in range(2):
        mix = golden.mix.copy()
        out = model(mix)
        gone = weakref.ref(mix), weakref.ref(out)
        del mix, out
        gc.collect()
        assert [reference() for reference in gone] == [None, None]


def test_an_arena_that_gives_its_slabs_back(monkeypatch):
    monkeypatch.setattr(arenas, "SLAB", arenas.GRAIN)  # each plan needs a larger one
    golden = load_golden(GOLDEN["ht_quad_free_length"])
    arena, n = Arena(), golden.mix.shape[2]
    model = seeded_model(golden, "numba")
    with use_arena(arena):
        for size in (n // 4, n // 2, n, n // 4, n):
            mix = noise(1, 4, size)
            assert np.array_equal(model(mix), afresh(golden, mix))
    assert len(arena.kept) == 2  # those of n // 4 and n in the slab for n


def test_an_interruption(golden, arena, monkeypatch):
    """In the first pass, which is not kept then, and in a later one."""
    model, run, left = seeded_model(golden, "numba"), tiles.Pool.run, -1

    def interrupted(self, *call):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        run(self, *call)

    monkeypatch.setattr(tiles.Pool, "run", interrupted)
    expected = afresh(golden, golden.mix)
    for _ in range(2):
        left = 50
        with pytest.raises(KeyboardInterrupt):
            model(golden.mix)
        assert arena.taken == 0
        assert arena.noting is None
        left = -1
        assert np.array_equal(model(golden.mix), expected)
    assert len(arena.kept) == 1


def test_buffers_in_use_keep_a_pass_from_the_places_of_another(golden, arena):
    model = seeded_model(golden, "numba")
    expected = model(golden.mix)
    held = arena.take(1000)
    held[:] = 7
    assert np.array_equal(model(golden.mix), expected)
    assert (held == 7).all()
    arena.give(held)


def test_threads_of_a_program_have_passes_of_their_own(golden):
    model = seeded_model(golden, "numba")
    mixes = [noise(*golden.mix.shape) for _ in range(4)]
    expected = [afresh(golden, mix) for mix in mixes]
    with ThreadPoolExecutor(2) as executor:
        found = list(executor.map(model, mixes * 3))
    assert all(np.array_equal(ours, result) for ours, result in zip(found, expected * 3, strict=True))


def test_the_numpy_backend_has_none(golden, arena):
    model = seeded_model(golden, "numpy")
    assert isinstance(model, Network)
    model(golden.mix)
    assert not arena.kept
