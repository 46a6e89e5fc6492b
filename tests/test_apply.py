"""apply_model against an oracle that works sample by sample in float64, and its contracts."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from fakes import SOURCES, FakeModel

from demucs_np import AudioError, BagOfModels, Event, ModelError, UsageError, apply_model
from demucs_np.audio import ArraySource
from demucs_np.kernels import tiles
from demucs_np.separation.apply import Options, blocks
from demucs_np.threads import use_threads

SEGMENT = 400  # samples of a fake model's segment


def noise(samples: int, channels: int = 2, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal((batch, channels, samples)).astype(np.float32)


def oracle(model: FakeModel, mix: np.ndarray, overlap: float = 0.25, segment: float | None = None, power: float = 1.0) -> np.ndarray:
    """Overlap-add with dictionaries: what each chunk adds to each sample."""
    batch, channels, length = mix.shape
    far = 4 * SEGMENT + length
    wide = np.pad(mix, ((0, 0), (0, 0), (far, far)))
    size = int(model.samplerate * (model.segment if segment is None else segment))
    weight = [min(i + 1, size - i) / max(size - size // 2, 1) for i in range(size)]
    total = np.zeros((batch, len(model.sources), channels, length))
    weights = np.zeros(length)
    offset = 0
    while offset < length:
        count = min(size, length - offset)
        wanted = size if model.kind == "htdemucs" else model.valid_length(count)
        start = offset - (wanted - count) // 2
        out = model(wide[..., far + start : far + start + wanted]).astype(float)
        skip = (out.shape[-1] - count) // 2
        for i in range(count):
            total[..., offset + i] += weight[i] ** power * out[..., skip + i]
            weights[offset + i] += weight[i] ** power
        offset += int((1 - overlap) * size)
    return total / weights


@pytest.mark.parametrize("kind", ["htdemucs", "hdemucs", "demucs"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("segments", [0.3, 1, 1.5, 3.7])
def test_split_is_the_oracle(kind: str, overlap: float, segments: float) -> None:
    model = FakeModel(kind)
    mix = noise(int(segments * SEGMENT))
    out = apply_model(model, mix, overlap=overlap)
    assert out.dtype == np.float32
    assert out.shape == (1, 4, *mix.shape[1:])
    np.testing.assert_allclose(out, oracle(model, mix, overlap), rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", ["htdemucs", "hdemucs", "demucs"])
@pytest.mark.parametrize("samples", [1, 2, 299, 300, 301, 400, 401])
def test_lengths_around_the_bounds(kind: str, samples: int) -> None:
    model, mix = FakeModel(kind), noise(samples)
    np.testing.assert_allclose(apply_model(model, mix), oracle(model, mix), rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", ["htdemucs", "hdemucs", "demucs"])
def test_segment_and_transition_power(kind: str) -> None:
    model, mix = FakeModel(kind), noise(1234)
    out = apply_model(model, mix, segment=0.123, transition_power=2.0)
    np.testing.assert_allclose(out, oracle(model, mix, segment=0.123, power=2.0), rtol=0, atol=3e-6)


def test_a_shorter_segment_shortens_the_chunks_of_a_transformer_and_not_its_input() -> None:
    model = FakeModel("htdemucs")
    apply_model(model, noise(SEGMENT), segment=0.1)
    assert {shape[-1] for shape in model.calls} == {100}
    assert model(noise(100)).shape[-1] == 100


def test_segments_are_products_of_doubles() -> None:
    model = FakeModel(samplerate=44100, segment=0.7, sources=("a",), channels=1)
    apply_model(model, np.zeros((1, 44100), np.float32))
    assert model.calls[0][-1] == 30869
    assert len(model.calls) == len(range(0, 44100, int(0.75 * 30869)))


def test_no_split_is_one_call() -> None:
    model, mix = FakeModel(), noise(1500)
    assert np.array_equal(apply_model(model, mix, split=False), model(mix))
    assert model.calls[0] == (1, 2, 1500)
    with pytest.raises(UsageError, match="longer than the segment"):
        apply_model(FakeModel("htdemucs"), mix, split=False)
    with pytest.raises(UsageError, match=r"1\.5 seconds do not fit into one segment of 0\.2: let the track be split"):
        apply_model(FakeModel("htdemucs"), mix, split=False, segment=0.2)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("shifts", [1, 3])
def test_shifts_are_averaged_and_drawn_from_the_seed(shifts: int, split: bool) -> None:
    model, mix = FakeModel(), noise(900)
    draw, expected = random.Random(7), np.zeros((1, 4, 2, 900))
    for _ in range(shifts):
        late = 500 - draw.randint(0, 500)
        padded = np.pad(mix, ((0, 0), (0, 0), (late, 0)))
        out = oracle(model, padded) if split else model(padded)
        expected += out[..., late:] / shifts
    np.testing.assert_allclose(apply_model(model, mix, shifts=shifts, seed=7, split=split), expected, rtol=0, atol=3e-6)
    assert not np.allclose(apply_model(model, mix, shifts=shifts, seed=8, split=split), expected, rtol=0, atol=1e-3)


def test_bag_is_the_weighted_average_with_its_own_shifts_for_each() -> None:
    models = [FakeModel("htdemucs"), FakeModel("hdemucs", gain=2), FakeModel("demucs", gain=-1)]
    weights = [[1, 1, 0, 0], [0, 1, 0, 0.5], [1, 0, 1, 1]]
    mix = noise(777)
    draw, expected = random.Random(0), np.zeros((1, 4, 2, 777))
    for model, row in zip(models, weights, strict=True):
        late = 500 - draw.randint(0, 500)
        expected += oracle(model, np.pad(mix, ((0, 0), (0, 0), (late, 0))))[..., late:] * np.array(row)[:, None, None]
    expected /= np.sum(weights, axis=0)[:, None, None]
    np.testing.assert_allclose(apply_model(BagOfModels(models, weights), mix, shifts=1), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("wanted", "calls"), [("drums", [1, 0, 1]), ("bass", [1, 1, 0]), ("vocals", [0, 0, 1])])
def test_members_without_weight_do_not_run_and_change_nothing(wanted: str, calls: list[int]) -> None:
    models = [FakeModel(gain=gain) for gain in (1, 2, 3)]
    bag = BagOfModels(models, [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]])
    mix = noise(777)
    everything = apply_model(bag, mix, shifts=2)
    for model in models:
        model.calls.clear()
    one = apply_model(bag, mix, shifts=2, stems=[wanted])
    assert np.array_equal(one[:, 0], everything[:, SOURCES.index(wanted)])
    assert [bool(model.calls) for model in models] == [bool(call) for call in calls]


def test_stems_come_in_the_order_that_was_asked_for() -> None:
    mix = noise(700)
    everything = apply_model(FakeModel(), mix)
    assert np.array_equal(apply_model(FakeModel(), mix, stems=["vocals", "bass"]), everything[:, [3, 1]])


def test_batches_and_single_mixes() -> None:
    mix = noise(700, batch=3)
    out = apply_model(FakeModel(), mix)
    for i in range(3):
        assert np.array_equal(apply_model(FakeModel(), mix[i]), out[i])
    assert np.array_equal(apply_model(FakeModel(), mix.astype(np.float64)[1]), out[1])


def test_blocks_follow_each_other_as_soon_as_they_are_final() -> None:
    model, mix = FakeModel(), noise(2000)
    expected = apply_model(model, mix[0], shifts=2)
    model.calls.clear()
    position = 0
    for start, block in blocks(model, ArraySource(mix[0]), Options(shifts=2)):
        assert start == position
        assert np.array_equal(block, expected[..., start : start + block.shape[-1]])
        position += block.shape[-1]
        # what is out of the two passes' chunks has been handed on, but for a segment each
        assert len(model.calls) <= 2 * (position // 300 + 4)
    assert position == 2000


def test_reads_no_more_than_a_chunk_at_a_time() -> None:
    class Recorded(ArraySource):
        longest = 0

        def read(self, start: int, stop: int) -> np.ndarray:
            assert 0 <= start < stop <= self.shape[-1]
            self.longest = max(self.longest, stop - start)
            return super().read(start, stop)

    source = Recorded(noise(5000)[0])
    apply_model(FakeModel("htdemucs"), source, shifts=1)
    assert source.longest == SEGMENT


def test_progress_begins_at_zero_and_ends_at_total() -> None:
    events: list[Event] = []
    bag = BagOfModels([FakeModel(), FakeModel("htdemucs")])
    apply_model(bag, noise(2000), shifts=2, progress=events.append)
    total = events[0].total
    assert [event.done for event in events] == list(range(total + 1))
    assert {(event.stage, event.total) for event in events} == {("separate", total)}
    assert events[0].seconds_left is None
    assert events[-1].seconds_left == 0
    assert total == sum(len(model.calls) for model in bag.models)  # type: ignore[attr-defined]


def test_raising_from_progress_stops_at_once() -> None:
    model = FakeModel()

    def stop(event: Event) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_model(model, noise(4000), progress=stop, threads=1)
    assert len(model.calls) == 2


def test_threads_hold_for_the_model_only() -> None:
    model = FakeModel()
    seen: list[int] = []
    model.before = lambda: seen.append(tiles.pool().threads)
    with use_threads(3):
        for _ in blocks(model, ArraySource(noise(900)), Options(), threads=2):
            assert tiles.pool().threads == 3
    assert set(seen) == {2}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"overlap": 1}, "overlap is 1, but must be at least 0 and below 1"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"overlap": 0.9999}, "do not advance"),
        ({"segment": 0}, "segment is 0 seconds, but must be above 0"),
        ({"segment": float("nan")}, "segment is nan"),
        ({"segment": 0.5}, "a segment of 0.5 seconds is longer than this model allows: choose at most 0.4"),
        ({"segment": 0.0001}, "do not advance: choose a longer segment"),
        ({"shifts": -1}, "shifts is -1, but must be 0 or more"),
        ({"shifts": 1.5}, "shifts is 1.5, but must be a whole number"),
        ({"threads": 0}, "threads is 0, but must be 1 or more"),
        ({"threads": float("nan")}, "threads is nan, but must be a whole number"),
        ({"transition_power": 0.5}, "transition_power is 0.5"),
        ({"stems": ["piano"]}, 'stem "piano" is not in this model: choose from drums, bass, other, vocals'),
        ({"stems": ["bass", "bass"]}, "different stems"),
        ({"stems": []}, "different stems"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        apply_model(FakeModel("htdemucs"), noise(100), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2,), (3, 10), (1, 3, 10), (1, 1, 2, 10), (2, 0), (0, 2, 10)])
def test_mix_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match=r"the mix has shape .* but this model takes \(2, samples\)"):
        apply_model(FakeModel(), np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_mix_that_is_not_finite(value: float) -> None:
    mix = noise(100)
    mix[0, 1, 50] = value
    with pytest.raises(AudioError, match="NaN or infinite"):
        apply_model(FakeModel(), mix)


def test_model_that_breaks_its_promise() -> None:
    class Wrong(FakeModel):
        def __call__(self, mix: np.ndarray) -> np.ndarray:
            return super().__call__(mix)[..., :-1]

    with pytest.raises(ModelError, match="the model made shape"):
        apply_model(Wrong(), noise(100))


def test_bag_of_one_is_its_model() -> None:
    mix = noise(900)
    bag = BagOfModels([FakeModel()])
    assert np.array_equal(apply_model(bag, mix, shifts=1), apply_model(FakeModel(), mix, shifts=1))
    assert (bag.sources, bag.samplerate, bag.audio_channels, bag.max_segment) == (SOURCES, 1000, 2, None)
    assert np.array_equal(bag(mix), FakeModel()(mix))


def test_bag_segment_shortens_but_never_lengthens_a_transformer() -> None:
    hybrid, transformer = FakeModel("hdemucs"), FakeModel("htdemucs")
    longer = BagOfModels([hybrid, transformer], segment=44)
    assert [model.segment for model in longer.models] == [44, Fraction(2, 5)]
    shorter = BagOfModels([hybrid, transformer], segment=0.25)
    assert [model.segment for model in shorter.models] == [0.25, 0.25]
    assert shorter.max_segment == 0.25
    assert hybrid.segment == transformer.segment == Fraction(2, 5)  # the caller's models keep theirs


@pytest.mark.parametrize(
    ("models", "weights", "segment", "text"),
    [
        ([], None, None, "at least one model"),
        ([FakeModel(), FakeModel(samplerate=999)], None, None, "model 2 of the bag has samplerate 999, but the first has 1000"),
        ([FakeModel(), FakeModel(channels=1)], None, None, "audio_channels 1"),
        ([FakeModel(), FakeModel(sources=("a",))], None, None, "sources"),
        ([FakeModel()], [[1, 1, 1]], None, "1 lists"),
        ([FakeModel()], [[1, 1, 1, 1]] * 2, None, "1 lists"),
        ([FakeModel()], [[1, 1, 1, 0]], None, "stem vocals add up to zero"),
        ([FakeModel()], None, 0, "segment is 0 seconds"),
    ],
)
def test_bags_that_make_no_sense(models: list[FakeModel], weights: list[list[float]] | None, segment: float | None, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        BagOfModels(models, weights, segment)


@pytest.mark.parametrize(("channels", "views"), [(1, 2), (2, 3)])
def test_tta_is_the_average_over_inverse_and_swapped_channels(channels: int, views: int) -> None:
    model, mix = FakeModel(channels=channels), noise(900, channels)
    ways = [apply_model(model, mix), -apply_model(model, -mix)]
    if channels == 2:
        ways.append(apply_model(model, mix[:, ::-1])[:, :, ::-1])
    model.calls.clear()
    out = apply_model(model, mix, tta=True)
    np.testing.assert_allclose(out, np.mean(ways, axis=0), rtol=0, atol=1e-6)
    assert len(model.calls) == views * 3
    assert np.abs(out - ways[0]).max() > 0.01


def test_in_turn_gives_the_same_bits_model_by_model() -> None:
    bag = BagOfModels([FakeModel(), FakeModel("htdemucs", gain=2), FakeModel("demucs")], [[1, 1, 0.5, 0], [0, 1, 0, 0.3], [1, 0, 1, 1]])
    mix = noise(1480)
    seen: list[tuple[int, int]] = []
    parts = blocks(
        bag, ArraySource(mix), Options(shifts=2), in_turn=True, on_chunk=lambda chunk: seen.append((chunk.member, chunk.passing))
    )
    [(start, whole)] = parts
    assert start == 0
    assert np.array_equal(whole, apply_model(bag, mix, shifts=2))
    assert seen == sorted(seen)
    assert set(seen) == {(member, shift) for member in range(3) for shift in range(2)}


def test_progress_moves_within_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from demucs_np.separation import apply as module
    from demucs_np.weights import catalog, load_model

    monkeypatch.setattr(module, "INTERVAL", 0.0)
    model = load_model(catalog.DEMO_FILE)
    events: list[Event] = []
    mix = np.random.default_rng(0).uniform(-1, 1, (2, 5 * model.samplerate)).astype(np.float32)
    apply_model(model, mix, progress=events.append)
    done = [event.done for event in events]
    assert done == sorted(done)
    assert events[0].done == 0
    assert events[-1].done == events[-1].total == 2
    assert sum(0 < value < 1 for value in done) > 50
    assert sum(1 < value < 2 for value in done) > 50

    def stop(event: Event) -> None:
        if event.done > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_model(model, mix, progress=stop)
    assert len(apply_model(model, mix[:, :2000])) == len(model.sources)  # nobody listens any more
