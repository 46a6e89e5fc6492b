"""Streams: the bits of whole tracks, however they are cut; delay, loudness, memory, and what is refused."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from fakes import SOURCES, FakeModel, Straight
from files import music
from hypothesis import given, settings
from hypothesis import strategies as st

from demucs_np import AudioError, BagOfModels, ModelError, Separator, Stream, UsageError, load_model
from demucs_np.kernels.resample import Resampler, resample
from demucs_np.separation.separator import Moments

FIXED = (0.01, 0.3)


def run(stream: Stream, wav: np.ndarray, sizes: list[int]) -> dict[str, np.ndarray]:
    """Push `wav` in blocks of these sizes, again and again."""
    parts, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= wav.shape[1]:
            break
        parts.append(stream.push(wav[:, at : at + size]))
        at += size
    parts.append(stream.flush())
    return {stem: np.concatenate([part[stem] for part in parts], axis=1) for stem in stream.stems}


def snr(true: np.ndarray, other: np.ndarray) -> float:
    true = true.astype(np.float64)
    return float(10 * np.log10(np.square(true).sum() / np.square(true - other).sum()))


def loudness_of(wav: np.ndarray) -> tuple[float, float]:
    moments = Moments()
    moments.update(wav)
    return moments.mean, moments.std


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["htdemucs", "hdemucs", "demucs", "bag"]),
    samples=st.integers(2, 1500),
    sizes=st.lists(st.integers(0, 700), min_size=1, max_size=4).filter(any),
    overlap=st.sampled_from([0, 0.25, 0.6]),
    segment=st.sampled_from([None, 0.3]),
)
def test_whole_windows_have_the_bits_of_a_whole_track(
    kind: str, samples: int, sizes: list[int], overlap: float, segment: float | None
) -> None:
    wav = music(samples)
    model = FakeModel(kind) if kind != "bag" else BagOfModels([FakeModel("htdemucs"), FakeModel("demucs", segment=0.25)])
    _, whole = Separator(model, shifts=0, overlap=overlap, segment=segment).separate_array(wav, 1000)
    stems = run(Stream(model, loudness=loudness_of(wav), overlap=overlap, segment=segment), wav, sizes)
    assert list(stems) == list(SOURCES)
    for name in SOURCES:
        assert np.array_equal(stems[name], whole[name])


def test_the_bundled_model_has_the_bits_of_a_whole_track() -> None:
    model = load_model("demo")
    wav = music(model.samplerate * 5)
    whole = Separator(model, shifts=0, stems=["vocals"]).separate_array(wav, model.samplerate)[1]
    stems = run(Stream(model, loudness=loudness_of(wav), stems=["vocals"]), wav, [12345, 7])
    assert np.array_equal(stems["vocals"], whole["vocals"])


@pytest.mark.parametrize("rate", [800, 1000, 1300, 44100])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("low", [{}, {"hop": 0.1, "lookahead": 0.05}])
def test_other_rates_and_channels_give_as_many_samples_as_went_in(rate: int, channels: int, low: dict[str, float]) -> None:
    for samples in (3 * rate + 1, 2 * rate // 3, max(3, rate // 400)):
        wav = music(samples, channels)
        stems = run(Stream(FakeModel(), samplerate=rate, channels=channels, loudness=FIXED, stems=["bass"], **low), wav, [0, 333, 1, 17])  # type: ignore[arg-type]
        assert stems["bass"].shape == (min(2, channels), samples)


def test_resampling_on_both_sides_is_that_of_whole_arrays() -> None:
    wav = music(5000)
    model = FakeModel()
    inside = resample(wav, 1300, 1000)
    made = run(Stream(model, loudness=FIXED), inside, [inside.shape[1]])
    stems = run(Stream(model, samplerate=1300, loudness=FIXED), wav, [77, 500, 3])
    for name in SOURCES:
        back = resample(made[name], 1000, 1300, fine=True)
        assert stems[name].shape[1] - back.shape[1] in (0, 1, 2)
        assert np.array_equal(stems[name][:, : back.shape[1]], back)


def tones(*hertz: int, rate: int, samples: int) -> np.ndarray:
    """Their sum, stereo."""
    phase = 2 * np.pi * np.arange(samples) / rate * np.array(hertz)[:, None]
    return np.tile(np.sin(phase).sum(axis=0) / (1.2 * len(hertz)), (2, 1)).astype(np.float32)


@pytest.mark.parametrize("rate", [48000, 8000, 96000])
def test_at_another_rate_a_sample_comes_out_where_it_went_in(rate: int) -> None:
    """And as well as from a file: in by upstream's filter, out by the fine one."""
    wav = tones(440, 1000, rate=rate, samples=rate + 7)
    model = Straight(samplerate=44100, segment=0.5)
    out = run(Stream(model, samplerate=rate, hop=0.2, lookahead=0.1, loudness=(0, 1)), wav, [4801])["drums"]
    assert out.shape == wav.shape
    inner = slice(rate // 20, rate - rate // 20)
    assert snr(wav[:, inner], out[:, inner]) > 85


@pytest.mark.parametrize("rate", [48000, 96000])
def test_stems_at_another_rate_come_back_above_110_db(rate: int) -> None:
    """44.1 kHz, as the model made them -> the stream's rate -> 44.1 kHz."""
    wav = tones(50, 1000, 9000, 18000, rate=rate, samples=rate)
    model = Straight(samplerate=44100, segment=0.5)
    how = {"hop": 0.2, "lookahead": 0.1, "loudness": (0, 1)}
    made = run(Stream(model, **how), resample(wav, rate, 44100), [4801])["drums"]  # type: ignore[arg-type]
    out = run(Stream(model, samplerate=rate, **how), wav, [4801])["drums"]  # type: ignore[arg-type]
    inner = slice(2000, 42000)
    assert snr(made[:, inner], resample(out, rate, 44100, fine=True)[:, inner]) > 110
    assert snr(made[:, inner], resample(resample(made, 44100, rate), rate, 44100)[:, inner]) < 60, "upstream's filter would not do"


@pytest.mark.parametrize("low", [{}, {"hop": 0.1, "lookahead": 0.05}, {"hop": 0.02, "lookahead": 0}])
@pytest.mark.parametrize("loudness", ["running", FIXED])
def test_how_a_stream_is_cut_changes_no_bit(low: dict[str, float], loudness: object) -> None:
    wav = music(3000)
    results = [
        run(Stream(FakeModel(), samplerate=1100, loudness=loudness, **low), wav, sizes)  # type: ignore[arg-type]
        for sizes in ([3000], [1], [0, 100, 1, 999])
    ]
    for name in SOURCES:
        assert all(np.array_equal(results[0][name], other[name]) for other in results[1:])


@pytest.mark.parametrize("rate", [1000, 1300])
@pytest.mark.parametrize("low", [{}, {"hop": 0.1, "lookahead": 0.05}, {"hop": 0.07, "lookahead": 0.2}])
def test_delay_is_as_stated(rate: int, low: dict[str, float]) -> None:
    for kind in ("htdemucs", "hdemucs", "demucs"):
        stream = Stream(FakeModel(kind), samplerate=rate, **low)  # type: ignore[arg-type]
        if low:
            filters = Resampler(rate, 1000).lookahead / rate + Resampler(1000, rate, fine=True).lookahead / 1000
            assert stream.delay == pytest.approx(low["hop"] + low["lookahead"] + filters)
        out, late = 0, []
        for count, sample in enumerate(music(2 * rate).T, 1):
            out += stream.push(sample[:, None])["bass"].shape[1]
            late.append(count - out)
        bound = stream.delay * rate
        assert bound - 4 <= max(late) <= bound + 2  # a resampled sample comes with the one after it


@pytest.mark.parametrize("loudness", ["running", FIXED])
def test_windows_of_low_delay_lie_where_they_should(loudness: object) -> None:
    wav = music(3000)
    model = Straight("htdemucs")
    stems = run(Stream(model, hop=0.15, lookahead=0.1, loudness=loudness), wav, [123])  # type: ignore[arg-type]
    for name in SOURCES:
        np.testing.assert_allclose(stems[name], wav, rtol=0, atol=2e-6)
    assert len(model.calls) == 3000 // 150
    assert {shape[-1] for shape in model.calls} == {400}


def test_windows_of_low_delay_see_what_comes_and_what_was() -> None:
    """A model that tells the window's end: the ramp of its last sample's number."""

    class Ends(FakeModel):
        def __call__(self, mix: np.ndarray) -> np.ndarray:
            ends = np.full_like(mix, mix[0, 0, -1])
            return np.stack([ends] * 4, axis=1)

    wav = np.tile(np.arange(2000, dtype=np.float32), (2, 1))
    ends = run(Stream(Ends("htdemucs"), hop=0.2, lookahead=0.1, loudness=(0, 1)), wav, [50])["bass"][0]
    for start in range(0, 1600, 200):
        assert np.allclose(ends[start + 50 : start + 200], start + 299, rtol=1e-4)  # beyond the cross-fade of 50 samples
        if start:
            assert np.all(np.diff(ends[start - 1 : start + 51]) > 0)


def test_a_jump_of_20_db_does_not_click_with_a_running_loudness() -> None:
    """Windows hear the jump at different loudnesses: what they give out is the jump, and nothing beside it above -110 dB."""
    rate = 1000
    seconds = np.arange(8 * rate) / rate
    wav = (0.05 * np.sin(2 * np.pi * 40 * seconds) * np.where(seconds < 4, 1, 10)).astype(np.float32)
    for low in ({}, {"hop": 0.1, "lookahead": 0.05}):
        stems = run(Stream(Straight(), **low), np.tile(wav, (2, 1)), [100])  # type: ignore[arg-type]
        assert 20 * np.log10(np.abs(stems["drums"][0] - wav).max()) < -110


@pytest.mark.parametrize("before", [0.0, 1e-7, 0.3])
def test_a_stream_may_begin_with_silence(before: float) -> None:
    """Zeros have no deviation, very quiet noise a tiny one, and a constant none beside its mean: nothing is blown up."""
    noise = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    start = np.full((2, 3000), before, np.float32) if before == 0.3 else np.float32(before) * noise
    wav = np.concatenate([start, np.float32(0.1) * noise], axis=1)
    out = run(Stream(Straight(), hop=0.1, lookahead=0.05), wav, [250])["drums"]
    np.testing.assert_allclose(out, wav, rtol=0, atol=1e-6)
    np.testing.assert_allclose(out[:, :2900], wav[:, :2900], rtol=0, atol=1e-6 * before + 1e-12)


def test_a_jump_of_20_db_in_a_song_does_not_click() -> None:
    """Around the jump, the bundled model's stems have no more of a step than the jump itself puts into the mix, and elsewhere the
    windows' edges are as smooth as at a fixed loudness: the strongest sample above 8 kHz differs by less than 1 % of full scale."""
    from demucs_np.demo.song import make_song

    model = load_model("demo")
    rate = model.samplerate
    wav = sum(make_song(41, 8).values())[:, : 8 * rate].astype(np.float32)  # type: ignore[union-attr]
    jump = 4 * rate
    wav[:, :jump] *= 0.1
    steps = {}
    for name, loudness in (("running", "running"), ("fixed", loudness_of(wav))):
        stems = run(Stream(model, hop=1, lookahead=0.5, loudness=loudness), wav, [4000])  # type: ignore[arg-type]
        steps[name] = np.stack([np.diff(stem, n=4, axis=1) / 16 for stem in stems.values()])
    edges = np.concatenate([np.arange(at - 10, at + 10 + int(0.05 * rate)) for at in range(rate, 7 * rate, rate) if at != jump])
    assert np.abs(steps["running"][..., edges]).max() < np.abs(steps["fixed"][..., edges]).max() + 0.01


# Threads that other tests left to themselves may go on.
OURS = [tracemalloc.Filter(True, f"*/demucs_np/{room}/*") for room in ("separation", "audio", "kernels", "models")]


def test_an_hour_of_odd_pushes_leaves_memory_flat() -> None:
    model = FakeModel("htdemucs", samplerate=400, segment=5)
    stream = Stream(model, samplerate=441, stems=["bass"])
    block, sizes = music(5000), itertools.cycle([0, 1, 4999, 37, 1234, 3])
    tracemalloc.start()
    try:
        went = came = 0
        held: list[int] = []
        while went < 3600 * 441:
            size = next(sizes)
            came += stream.push(block[:, :size])["bass"].shape[1]
            went += size
            model.calls.clear()
            if went > 450 * 441 * (len(held) + 1):
                gc.collect()  # slices of NumPy's own wait for it
                held.append(sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(OURS).traces))
        came += stream.flush()["bass"].shape[1]
    finally:
        tracemalloc.stop()
    assert came == went
    assert held[0] > 1000
    assert max(held[1:]) < held[0] + 20_000  # bytes; one block of 5000 samples is 40,000


def test_closing_frees_the_model() -> None:
    for finish in ("flush", "close", "forget", "with"):
        model = FakeModel()
        alive = weakref.ref(model)
        stream = Stream(model)
        stream.push(music(900))
        del model
        if finish == "with":
            with stream:
                pass
        elif finish != "forget":
            getattr(stream, finish)()
        if finish == "forget":
            del stream
        else:
            with pytest.raises(UsageError, match="this stream is closed: start another one"):
                stream.push(music(1))
        gc.collect()
        assert alive() is None


def test_two_streams_at_once_share_the_cores() -> None:
    """Neither waits for the other to end, and each has its own samples."""
    model = load_model("demo")
    rate = model.samplerate
    wavs = [music(6 * rate, seed=seed) for seed in (1, 2)]
    alone = [run(Stream(model, hop=1), wav, [rate]) for wav in wavs]
    results: list[dict[str, np.ndarray]] = [{}, {}]
    order: list[int] = []

    def work(number: int) -> None:
        stream = Stream(model, hop=1)
        parts = []
        for start in range(0, wavs[number].shape[1], rate):
            parts.append(stream.push(wavs[number][:, start : start + rate]))
            order.append(number)
        parts.append(stream.flush())
        results[number] = {name: np.concatenate([part[name] for part in parts], axis=1) for name in SOURCES}

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(results, alone, strict=True):
        assert all(np.array_equal(mine[name], theirs[name]) for name in SOURCES)
    first_done = order.index(order[-1], 0) if order[-1] not in order[:-1] else len(order) - order[::-1].index(1 - order[-1])
    assert order[:first_done].count(order[-1]) >= 2  # when one was done, the other had come at least a third of the way


def test_a_second_thread_in_one_stream_is_refused() -> None:
    model, started, go_on = FakeModel(), threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert go_on.wait(10)

    model.before = wait
    stream = Stream(model)
    thread = threading.Thread(target=stream.push, args=(music(900),))
    thread.start()
    assert started.wait(10)
    with pytest.raises(UsageError, match="is being pushed by another thread"):
        stream.push(music(1))
    with pytest.raises(UsageError, match="is being pushed by another thread"):
        stream.close()
    go_on.set()
    thread.join()
    stream.close()


def test_speed_and_what_it_says_of_itself() -> None:
    stream = Stream(FakeModel(), samplerate=2000, stems=["bass", "drums"])
    assert np.isnan(stream.speed)
    stream.push(music(4000))
    assert stream.speed > 0
    text = repr(stream)
    assert text.startswith("<Stream of FakeModel: 2 channels at 2000 Hz -> bass, drums; delay 0.5")
    assert "2.0 s in" in text
    stream.close()
    assert "closed" in repr(stream)


def test_nothing_in_nothing_out() -> None:
    stream = Stream(FakeModel())
    assert stream.push(np.zeros((2, 0), np.float32))["bass"].shape == (2, 0)
    assert stream.flush()["bass"].shape == (2, 0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"samplerate": 0}, AudioError, "the stream: its sample rate is 0 Hz"),
        ({"samplerate": 44100.5}, AudioError, "the stream: its sample rate is 44100.5 Hz"),
        ({"samplerate": float("nan")}, AudioError, "the stream: its sample rate is nan Hz"),
        ({"samplerate": float("inf")}, AudioError, "the stream: its sample rate is inf Hz"),
        ({"threads": 0}, UsageError, "threads is 0, but must be 1 or more"),
        ({"threads": 1.5}, UsageError, "threads is 1.5, but must be a whole number"),
        ({"memory": "much"}, UsageError, '"much" is no size of memory'),
        ({"memory": -1}, UsageError, "memory is -1, but must be a number of bytes"),
        ({"samplerate": 10**7}, AudioError, "the stream: its sample rate is 10000000 Hz"),
        ({"channels": 0}, UsageError, "channels is 0"),
        ({"channels": 1.5}, UsageError, "channels is 1.5, but must be a whole number"),
        ({"stems": ["piano"]}, UsageError, 'stem "piano" is not in this model'),
        ({"hop": 0}, UsageError, "hop is 0 and lookahead 0.5 seconds, but they must be above zero"),
        ({"hop": float("nan")}, UsageError, "hop is nan"),
        ({"hop": 0.1, "lookahead": -1}, UsageError, "lookahead -1 seconds"),
        ({"hop": 0.3, "lookahead": 0.2}, UsageError, "hop and lookahead are 0.5 seconds, but together must fit into a window of 0.4"),
        ({"lookahead": 0.2}, UsageError, "give a hop as well"),
        ({"overlap": 1}, UsageError, "overlap is 1"),
        ({"segment": 3}, UsageError, "choose at most 0.4"),
        ({"loudness": (0.0, -1.0)}, UsageError, "loudness is .* but must be 'running', or a mean"),
        ({"loudness": (float("nan"), 1.0)}, UsageError, "loudness is"),
        ({"loudness": "loud"}, UsageError, "loudness is loud, but must be 'running', or a mean"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Stream(FakeModel("htdemucs"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (np.zeros(10, np.float32), r"shape \(10,\) of float32, but this stream takes floats \(2, samples\)$"),
        (np.zeros((10, 2), np.float32), r"transpose it: block.T has \(2, samples\)"),
        (np.zeros((2, 10), np.int16), "of int16"),
        (np.zeros((3, 10), np.float32), r"shape \(3, 10\)"),
        (np.array([[0, 0, np.nan], [0, 0, 0]], np.float32), r"the stream: sample 502 \(0.251 s\) of channel 1 is nan"),
    ],
)
def test_blocks_that_cannot_be(block: np.ndarray, text: str) -> None:
    stream = Stream(FakeModel(), samplerate=2000)
    stream.push(music(500))
    with pytest.raises(AudioError, match=text):
        stream.push(block)


def test_a_block_that_is_refused_has_changed_nothing() -> None:
    """However large it is, and wherever the fault lies."""
    wav = music(200_000)
    model = FakeModel(segment=5)
    expected = run(Stream(model, hop=2), wav, [wav.shape[1]])
    stream = Stream(model, hop=2)
    broken = wav.copy()
    broken[1, 190_000] = np.inf
    with pytest.raises(AudioError, match=r"sample 190000 \(190.000 s\) of channel 2 is inf"):
        stream.push(broken)
    huge = np.full((2, 100), 1e300)  # as float32, infinity
    with pytest.raises(AudioError, match=r"sample 0 \(0.000 s\) of channel 1 is inf"):
        stream.push(huge)
    stems = run(stream, wav, [wav.shape[1]])
    for name in SOURCES:
        assert np.array_equal(stems[name], expected[name])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_stream_that_was_interrupted_does_not_go_on(error: type[BaseException]) -> None:
    """It would have lost a window, and everything after it would come too early."""

    def fail() -> None:
        raise error

    model = FakeModel()
    stream = Stream(model, hop=0.1, lookahead=0.1)
    stream.push(music(150))
    model.before = fail
    with pytest.raises(error):
        stream.push(music(500))
    for what in (stream.flush, lambda: stream.push(music(1))):
        with pytest.raises(UsageError, match="this stream is closed"):
            what()
    stream.close()
    assert "closed" in repr(stream)


def test_speed_is_of_the_last_windows() -> None:
    """A machine that grows slow after a long time is noticed at once."""
    model = FakeModel()
    stream = Stream(model, hop=0.1, lookahead=0.1)
    for _ in range(20):
        stream.push(music(1000))
    model.before = lambda: time.sleep(0.11)
    stream.push(music(1000))
    assert stream.speed < 1.5


def test_a_window_begins_when_what_is_held_is_the_delay() -> None:
    for low in ({}, {"hop": 0.1, "lookahead": 0.05}):
        stream = Stream(FakeModel("htdemucs"), **low)  # type: ignore[arg-type]
        for _ in range(1500):
            before = stream.held
            if stream.push(music(1))["bass"].shape[1]:
                assert before == pytest.approx(stream.delay - 0.001)
        assert stream.held < stream.delay


def test_too_little_and_damaged_weights() -> None:
    stream = Stream(FakeModel())
    stream.push(music(1))
    with pytest.raises(AudioError, match="the stream: has 1 samples at 1000 Hz, too few"):
        stream.flush()
    with pytest.raises(ModelError, match="the model made NaN"):
        Stream(FakeModel(gain=float("nan"))).push(music(900))
