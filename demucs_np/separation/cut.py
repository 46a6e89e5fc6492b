"""Which part of a track is separated and written, at which rate: in samples of the model's rate and of the files'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..audio import Source, pieces
from ..errors import AudioError, UsageError
from ..kernels.resample import Resampler
from ..models.bag import BagOfModels
from .apply import MAX_SHIFT, Options

Rate = int | Literal["original"] | None  # Hz of the files; "original": the track's; None: the model's


@dataclass(frozen=True)
class Wanted:
    """What is to be written. Raises UsageError for what no track can have."""

    rate: Rate = None
    start: float = 0.0  # seconds
    duration: float | None = None  # seconds; None: to the end

    def __post_init__(self) -> None:
        if self.rate not in (None, "original") and not (isinstance(self.rate, int) and 1000 <= self.rate <= 768000):
            raise UsageError(f"the rate of the files is {self.rate!r}, but must be 'original' or 1000 to 768000 Hz")
        if not 0 <= self.start < float("inf"):
            raise UsageError(f"the start is {self.start} seconds, but must be 0 or more")
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise UsageError(f"the duration is {self.duration} seconds, but must be above 0")


@dataclass(frozen=True)
class Length:
    """How long a track is, in its own samples and in those that the model hears."""

    rate: int  # Hz of the file
    samples: int
    model_rate: int  # Hz
    model_samples: int


@dataclass(frozen=True)
class Cut:
    """Samples `first` ... `first + count - 1` of the track at `rate` Hz, and `begin` ... `end` - 1 at the model's, which they are made of.

    The part of the model's samples begins where a sample of both rates lies, `skip` samples of the files' before the first.
    """

    rate: int
    model_rate: int
    first: int
    count: int
    begin: int
    end: int
    skip: int

    @classmethod
    def choose(cls, wanted: Wanted, length: Length, name: str) -> Cut:
        """Raises AudioError, which begins with `name`, for a part that is not there."""
        rate = length.rate if wanted.rate == "original" else length.model_rate if wanted.rate is None else wanted.rate
        own = {length.model_rate: length.model_samples, length.rate: length.samples}  # of equal rates, the same
        total = own.get(rate, rate * length.samples // length.rate)
        first = round(wanted.start * rate)
        stop = total if wanted.duration is None else min(total, round((wanted.start + wanted.duration) * rate))
        if first >= total > 0:
            raise AudioError(f"{name}: is {total / rate:.2f} s long; choose a start before its end")
        if stop <= first:
            raise AudioError(f"{name}: a part of {wanted.duration} seconds has no samples at {rate} Hz; choose a longer one")
        if rate == length.model_rate:
            return cls(rate, rate, first, stop - first, first, stop, 0)
        converter = Resampler(length.model_rate, rate, fine=True)
        periods = max(0, first // converter.new - math.ceil(converter.lookahead / converter.old))
        end = min(length.model_samples, -(-stop * converter.old // converter.new) + converter.lookahead + 1)
        return cls(rate, length.model_rate, first, stop - first, periods * converter.old, end, first - periods * converter.new)

    def context(self, model: BagOfModels, options: Options, samples: int) -> tuple[int, int]:
        """The part (first sample, end) of a track of `samples` that decides about ours, all windows around it included.

        It begins where a window does, so that those of a whole separation lie in it: what is cut out has its samples, bit for bit, unless
        the models of a bag have windows of different lengths.
        """
        if not options.split:
            return 0, samples
        windows = [options.windows(member) for member in model.models]
        margin = int(MAX_SHIFT * model.samplerate) + max(each.size + sum(each.around(each.size)) for each in windows)
        stride = math.lcm(*{each.stride for each in windows}) if len({each.stride for each in windows}) == 1 else 1
        return max(0, self.begin - margin) // stride * stride, min(samples, self.end + margin)

    def convert(self, stem: Source, append: Callable[[np.ndarray], object], backend: str) -> None:
        """Give `append` the samples at the files' rate, from a `stem` that holds those at the model's."""
        resampler = Resampler(self.model_rate, self.rate, backend, fine=True)
        at = -self.skip  # of the next output sample in the cut
        for block in pieces(stem):
            out = resampler.push(block)
            append(out[:, max(0, -at) : max(0, self.count - at)])
            at += out.shape[1]
        out = resampler.finish(self.skip + self.count)
        append(out[:, max(0, -at) : max(0, self.count - at)])
