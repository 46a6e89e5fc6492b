"""The scheduler: every tile once, exceptions and Ctrl-C, and pools that go on after them."""

import signal
import threading
import time

import numpy as np
import pytest

from demucs_np.errors import UsageError
from demucs_np.kernels.tiles import LONGEST, Pool, pool, shares
from demucs_np.threads import default_threads, use_threads

pytestmark = pytest.mark.kernel

THREADS = [1, 2, 4]


@pytest.fixture
def fresh():
    """Makes pools and closes them."""
    made = []

    def make(threads):
        made.append(Pool(threads))
        return made[-1]

    yield make
    for one in made:
        one.close()


def each(kernel):
    """A kernel for ranges of tiles from one for a tile."""

    def over(tile0, tile1, *args):
        for tile in range(tile0, tile1):
            kernel(tile, *args)

    return over


def counts_tiles(tested, tiles):
    """Each tile is run once, wherever."""
    seen = np.zeros(tiles, np.int64)

    def kernel(tile, scratch, out):
        out[tile] += 1

    tested.run(each(kernel), tiles, 0, seen)
    return bool(np.all(seen == 1))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("tiles", [0, 1, 2, 3, 100])
def test_every_tile_runs_once(fresh, threads, tiles):
    assert counts_tiles(fresh(threads), tiles)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_ranges_are_all_tiles_in_order_and_end_short(threads):
    for tiles in (0, 1, 5, 64, 1000):
        ranges = shares(tiles, threads)
        assert [tile for begin, end in ranges for tile in range(begin, end)] == list(range(tiles))
        lengths = [end - begin for begin, end in ranges]
        assert lengths == sorted(lengths, reverse=True)
        assert all(1 <= length <= LONGEST for length in lengths)
        assert lengths[-1:] in ([], [1])


@pytest.mark.parametrize("threads", THREADS)
def test_scratch_is_private_float32_and_large_enough(fresh, threads):
    tested = fresh(threads)
    for size in (10, 1000, 100):

        def kernel(tile, scratch, size):
            assert scratch.dtype == np.float32
            assert scratch.flags.c_contiguous
            assert scratch.size >= size
            scratch[:] = tile
            time.sleep(1e-4)  # time for another thread to disturb it
            assert np.all(scratch == tile)

        tested.run(each(kernel), 20, size, size)


def test_work_is_shared(fresh):
    """With two threads, two tiles are in work at the same time: each waits for the other."""
    both = threading.Barrier(2, timeout=20)
    fresh(2).run(each(lambda tile, scratch: both.wait()), 2, 0)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("guilty", [0, 7, 199])
def test_an_exception_in_a_tile_is_raised_and_stops_the_rest(fresh, threads, error, guilty):
    tested = fresh(threads)
    started = []

    def kernel(tile, scratch):
        started.append(tile)
        if tile == guilty:
            raise error("in this tile")
        time.sleep(1e-4)

    with pytest.raises(error, match=r"^in this tile$"):
        tested.run(each(kernel), 200 if guilty == 199 else 10_000, 0)
    assert len(started) < 1000
    assert guilty in started
    assert counts_tiles(tested, 50)


def test_the_exception_of_another_thread_is_raised_here(fresh):
    tested = fresh(2)
    both = threading.Barrier(2, timeout=20)
    caller = threading.get_ident()

    def kernel(tile, scratch):
        both.wait()
        if threading.get_ident() != caller:
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match=r"^elsewhere$"):
        tested.run(each(kernel), 2, 0)
    assert counts_tiles(tested, 50)


def test_no_tile_runs_any_more_when_the_exception_arrives(fresh):
    """A caller may then use the arrays again."""
    tested = fresh(4)
    running = []

    def kernel(tile, scratch):
        running.append(tile)
        try:
            if tile == 3:
                raise RuntimeError("stop")
            time.sleep(0.02)
        finally:
            running.remove(tile)

    with pytest.raises(RuntimeError, match=r"^stop$"):
        tested.run(each(kernel), 1000, 0)
    assert not running


@pytest.mark.parametrize("threads", THREADS)
def test_ctrl_c_stops_within_a_tile(fresh, threads):
    tested = fresh(threads)
    started = []

    def kernel(tile, scratch):
        started.append(tile)
        if tile == 10:
            signal.raise_signal(signal.SIGINT)  # Python delivers it to the main thread, between two of its steps
        time.sleep(2e-3)

    with pytest.raises(KeyboardInterrupt):
        tested.run(each(kernel), 100_000, 0)
    assert len(started) < 200
    assert counts_tiles(tested, 50)


@pytest.mark.parametrize("threads", THREADS)
def test_ctrl_c_again_and_again_leaves_the_pool_usable(threads, fresh):
    tested = fresh(threads)

    def kernel(tile, scratch):
        signal.raise_signal(signal.SIGINT)
        time.sleep(1e-3)

    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            tested.run(each(kernel), 100, 0)
        assert counts_tiles(tested, 20)


def test_ctrl_c_while_waiting_for_the_others(fresh):
    """Signals that arrive when this thread has no tile any more; it waits all the same until nobody holds the buffers."""
    tested = fresh(2)
    main = threading.main_thread().ident
    assert threading.get_ident() == main
    both = threading.Barrier(2, timeout=20)
    ended = []

    def kernel(tile, scratch):
        both.wait()
        if threading.get_ident() != main:
            for _ in range(5):
                time.sleep(5e-3)
                signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.02)
            ended.append(tile)

    for n in range(1, 6):
        with pytest.raises(KeyboardInterrupt):
            tested.run(each(kernel), 2, 0)
        assert len(ended) == n
    assert counts_tiles(tested, 50)


def test_two_python_threads_may_share_a_pool(fresh):
    tested = fresh(2)
    results = []

    def work():
        results.append(all(counts_tiles(tested, 30) for _ in range(20)))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [True] * 3


def test_one_thread_each_runs_at_the_same_time():
    """Two Python threads that want one thread each do not wait for each other."""
    barrier, failed = threading.Barrier(2), []

    def meet(tile0, tile1, scratch):
        barrier.wait(10)

    def work():
        try:
            with use_threads(1):
                pool().run(meet, 1, 0)
        except threading.BrokenBarrierError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_closed_pools_leave_no_threads():
    before = set(threading.enumerate())
    tested = Pool(5)
    made = set(threading.enumerate()) - before
    assert len(made) == 4
    assert all(thread.daemon for thread in made)  # none keeps the process from ending
    assert counts_tiles(tested, 10)
    tested.close()
    for thread in made:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_use_threads_restores():
    outside = pool().threads
    assert outside == default_threads() >= 1
    with use_threads(3):
        assert pool().threads == 3
        assert pool() is pool()
        with use_threads(1):
            assert pool().threads == 1
            with use_threads(None):
                assert pool().threads == 1
        assert pool().threads == 3
        with pytest.raises(KeyError), use_threads(2):
            raise KeyError("inside")
        assert pool().threads == 3
    assert pool().threads == outside


def test_use_threads_is_of_one_python_thread():
    found = []
    with use_threads(3):
        thread = threading.Thread(target=lambda: found.append(pool().threads))
        thread.start()
        thread.join()
    assert found == [default_threads()]


@pytest.mark.parametrize("threads", [0, -1])
def test_use_threads_refuses_fewer_than_one(threads):
    with pytest.raises(UsageError, match=rf"^threads is {threads}, but must be 1 or more$"), use_threads(threads):
        pass
