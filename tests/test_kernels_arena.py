"""Reused buffers: what is handed out, what comes back, and what does not."""

import itertools
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import varied

from demucs_np.kernels import arena as arena_module
from demucs_np.kernels.arena import GRAIN, HUGE, Arena, Plan, PlannedArena, apart
from demucs_np.kernels.layer import Norm
from demucs_np.machine import resident_memory
from demucs_np.operations import operations


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5, 7), (2, 3, 4)])
def test_arrays_are_float32_contiguous_and_writable(shape):
    array = Arena().take(*shape)
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_a_buffer_given_back_is_handed_out_again():
    arena = Arena()
    first = arena.take(20, 100)
    place = address(first)
    assert address(arena.take(20, 100)) != place
    arena.give(first)
    assert address(arena.take(1000)) == place  # also for other shapes
    assert address(arena.take(1000)) != place


def test_the_lowest_place_that_fits_is_taken():
    arena = Arena()
    arrays = [arena.take(size * GRAIN) for size in (3, 1, 5, 1, 9, 1)]
    places = [address(array) for array in arrays]
    assert places == sorted(places)
    assert all((place - places[0]) % (4 * GRAIN) == 0 for place in places)
    for array in arrays[4], arrays[0], arrays[2]:
        arena.give(array)
    assert address(arena.take(4 * GRAIN)) == places[2]
    assert address(arena.take(GRAIN)) == places[0]
    assert address(arena.take(2 * GRAIN)) == places[0] + 4 * GRAIN
    assert address(arena.take(6 * GRAIN)) == places[4]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_neighbouring_free_places_are_joined(order):
    arena = Arena()
    arrays = [arena.take(GRAIN) for _ in range(4)]
    for i in order:
        arena.give(arrays[i])
    assert address(arena.take(3 * GRAIN)) == address(arrays[0])


def test_more_than_a_slab_holds():
    with mock.patch.object(arena_module, "SLAB", 4 * GRAIN):
        arena = Arena()
        small, large, other = arena.take(3 * GRAIN), arena.take(10 * GRAIN), arena.take(2 * GRAIN)
        for n, array in enumerate((small, large, other)):
            array[:] = n
        assert [array.min() for array in (small, large, other)] == [0, 1, 2]
        arena.give(small)
        arena.give(large)
        assert address(arena.take(4 * GRAIN)) == address(small)
        assert address(arena.take(9 * GRAIN)) == address(large)


def test_another_shape_of_an_array_gives_its_buffer_back():
    arena = Arena()
    array = arena.take(6, 50, 10)
    arena.give(array.reshape(300, 10))
    assert address(arena.take(3000)) == address(array)


def test_a_second_give_and_foreign_arrays_are_refused():
    arena = Arena()
    array = arena.take(50, 40)
    arena.give(array)
    for other in (array, np.zeros((50, 40), np.float32), arena.take(70, 40)[3:]):
        arena.reset()
        with pytest.raises(ValueError, match=r"an array of shape \(\d+, 40\) is given back that is no buffer in use"):
            arena.give(other)


def test_reset_since_a_mark():
    arena = Arena()
    kept = arena.take(5000)
    mark = arena.mark()
    late = [arena.take(5000), arena.take(5000)]
    arena.give(late[0])
    arena.reset(mark)
    assert arena.taken == 1
    assert address(arena.take(10000)) == address(late[0])
    arena.give(kept)


def test_reset_takes_everything_back():
    arena = Arena()
    places = {address(arena.take(5000)), address(arena.take(5000))}
    arena.reset()
    assert {address(arena.take(5000)), address(arena.take(5000))} == places


@varied(100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60))
def test_no_two_arrays_share_memory(steps):
    """Takes and gives in any order, over several slabs: what was written stays until it is given back."""
    arena, held = Arena(), []
    with mock.patch.object(arena_module, "SLAB", 8 * GRAIN):
        for n, (take, size) in enumerate(steps):
            if take or not held:
                array = arena.take(size)
                array[:] = n
                held.append((n, array))
            else:
                value, array = held.pop(size % len(held))
                assert np.all(array == value)
                arena.give(array)
    assert all(np.all(array == value) for value, array in held)


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60)


def follow(arena, steps, write=True):
    """Takes and gives; what was written stays until it is given back. All is given back in the end."""
    held = []
    for n, (take, size) in enumerate([*steps, *[(False, 0)] * len(steps)]):
        if take:
            array = arena.take(size)
            if write:
                array[:] = n
            held.append((n, array))
        elif held:
            value, array = held.pop(size % len(held))
            assert not write or np.all(array == value)
            arena.give(array)


@varied(100)
@given(STEPS, STEPS)
def test_buffers_lie_where_a_plan_has_them(steps, others):
    """And where it is not for this computation, or something else lies there, wherever there is room."""
    with mock.patch.object(arena_module, "SLAB", 8 * GRAIN):
        planned = PlannedArena()
        follow(planned, steps, write=False)
        plan, arena = planned.plan(), Arena()
        with arena.following(plan):
            follow(arena, steps)
        assert arena.peak == 4 * plan.size
        with arena.following(plan):
            follow(arena, others)
        beside = arena.take(3000)
        beside[:] = 7
        with arena.following(plan):
            follow(arena, steps)
        assert np.all(beside == 7)
        arena.give(beside)
        assert arena.taken == 0


def test_a_plan_leaves_no_gap_where_the_lowest_place_would():
    steps = [(True, GRAIN), (True, 2 * GRAIN), (False, 0), (True, 3 * GRAIN), (False, 0), (True, GRAIN)]
    planned = PlannedArena()
    follow(planned, steps, write=False)
    assert planned.peak == 4 * 6 * GRAIN
    assert planned.plan().size == 5 * GRAIN


def test_a_larger_plan_gives_the_system_back_what_is_too_small():
    with mock.patch.object(arena_module, "SLAB", 4 * GRAIN):
        arena = Arena()
        arena.give(arena.take(3 * GRAIN))
        with arena.following(Plan(((0, 9 * GRAIN),), 9 * GRAIN)):
            arena.give(arena.take(9 * GRAIN))
        assert arena.peak == 4 * 9 * GRAIN
        assert arena.base().size == 9 * GRAIN


def test_a_computation_repeated_allocates_nothing_new():
    ops = operations("numba")
    weight = np.ones(30, np.float32)

    def once():
        x = ops.copy(np.ones((4, 50, 30), np.float32))
        y = ops.layer_norm(x, Norm(weight, weight))
        z = ops.group_norm(y, Norm(weight, weight, 3), activation="glu")
        places = [address(array) for array in (x, y, z)]
        ops.free(x, y, None, z)
        return places

    assert once() == once()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_array_leaves_no_memory_behind(dtype):
    before = resident_memory()
    array = apart(2**23, dtype)
    array[:] = 1
    assert array.dtype == dtype
    assert array.size == 2**23
    assert resident_memory() - before > 0.9 * array.nbytes
    behind = [np.ones(2**12) for _ in range(100)]  # what would keep it in the C library's hands
    del array
    assert resident_memory() - before < 1e7
    assert sum(map(np.sum, behind)) == 100 * 2**12


def test_memory_that_is_not_there():
    with pytest.raises(MemoryError):
        apart(2**50)


def test_unused_buffers_make_room():
    arena = Arena()
    buffers = [arena.take(2**22 + GRAIN * number) for number in range(6)]
    for number, buffer in enumerate(buffers):
        buffer[:] = number
    for buffer in buffers[1:5:2]:
        arena.give(buffer)
    before = resident_memory()
    arena.give_pages(2**24 + 1)  # of the 33 MB that are free
    assert 2**24 - 2 * HUGE <= before - resident_memory() <= 2**24 + 1e6
    arena.give_pages(2**30)
    assert before - resident_memory() >= 2**25 - 4 * HUGE
    for number in 0, 2, 4, 5:
        assert (buffers[number] == number).all()
    again = arena.take(2**22 + GRAIN)
    again[:] = 9
    assert address(again) == address(buffers[1])
    assert (buffers[2] == 2).all()


def test_copy_outlives_changes_on_both_backends():
    for backend in ("numpy", "numba"):
        x = np.ones((2, 3), np.float32)
        kept = operations(backend).copy(x)
        x[:] = 5
        assert np.all(kept == 1)
        assert kept.dtype == np.float32
        assert kept.flags.c_contiguous


def test_every_python_thread_has_buffers_of_its_own_which_its_models_share():
    found = []
    thread = threading.Thread(target=lambda: found.extend((operations("numba").arena, operations("numba").arena)))
    thread.start()
    thread.join()
    assert found[0] is found[1]
    assert found[0] is not operations("numba").arena
    assert operations("numba").arena is operations("numba").arena
