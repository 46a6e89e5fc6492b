"""Train the bundled demo model: an HTDemucs of upstream's own class on synthesised songs. Needs the `[train]` extra.

    python -m demucs_np.weights.train_demo --out training --steps 3000

Songs come from `demucs_np.demo.song`; a worker process writes them into `<out>/songs` while training runs. Step `s` draws from the first
`songs_at(s)` seeds and waits for them, so that data, augmentation and initial weights follow from `--seed`. The learning rate follows the
steps (`--steps`, reproducible) or the clock (`--minutes`, for a machine that is shared). A run that was stopped goes on from its
checkpoint, of the exact step after SIGTERM.

What makes a short run on a CPU enough:
- the outermost layers start as an analysis and a synthesis of the signal (`initialise`), so that the untrained model returns a quarter of
  the mixture for each stem and training begins with the gates that tell the stems apart;
- bfloat16 products, a decoder without 3x3 convolutions (`context=0`), a narrow transformer, short excerpts in small batches;
- a loss in decibels, equal for loud and soft stems, and an average of the weights over the last steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file

from demucs_np.demo.sdr import sdr
from demucs_np.demo.song import STEMS, make_song
from demucs_np.demo.synth import SAMPLE_RATE

ARGUMENTS: dict[str, Any] = {
    "sources": list(STEMS),
    "channels": 32,
    "context": 0,
    "dconv_mode": 1,
    "dconv_depth": 1,
    "dconv_comp": 4,
    "bottom_channels": 128,
    "t_layers": 2,
    "t_hidden_scale": 1.9375,
    "segment": 4,
}
TRAINING_SEEDS = 1_000_000  # songs from here on are for training; held-out songs have small seeds
VALIDATION_SEEDS = range(500_000, 500_004)
SONG_SECONDS = 24.0
FIRST_SONGS = 40


def songs_at(step: int, most: int) -> int:
    """How many songs the pool has at a step: it grows while training runs."""
    return min(most, FIRST_SONGS + step // 2)


def write_songs(folder: Path, count: int) -> None:
    """Write songs as int16 (4, 2, samples) arrays; those that are there stay."""
    os.nice(5)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(TRAINING_SEEDS, TRAINING_SEEDS + count):
        path = folder / f"{seed}.npy"
        if not path.exists():
            partial = folder / f"{seed}.partial.npy"
            np.save(partial, (load_song(seed) * 32768.0).astype(np.int16))
            partial.rename(path)


def load_song(seed: int) -> np.ndarray:
    stems = make_song(seed, SONG_SECONDS)
    return np.stack([stems[stem] for stem in STEMS])


class Pool:
    """Random excerpts of the songs written so far."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.songs: list[np.ndarray] = []

    def grow(self, step: int) -> None:
        while len(self.songs) < songs_at(step, self.most):
            path = self.folder / f"{TRAINING_SEEDS + len(self.songs)}.npy"
            while not path.exists():
                time.sleep(0.5)
            self.songs.append(np.load(path))

    def batch(self, rng: np.random.Generator, size: int, samples: int) -> torch.Tensor:
        """(size, 4, 2, samples): half of the excerpts as mixed in their song, half with each stem from another song; gains, channels
        and signs at random."""
        out = np.empty((size, len(STEMS), 2, samples), np.float32)
        for b in range(size):
            remix = rng.random() < 0.5
            song = self.songs[rng.integers(len(self.songs))]
            start = rng.integers(song.shape[-1] - samples)
            for s in range(len(STEMS)):
                if remix:
                    song = self.songs[rng.integers(len(self.songs))]
                    start = rng.integers(song.shape[-1] - samples)
                stem = song[s, :: rng.choice((1, -1)), start : start + samples]
                gain = rng.choice((1, -1)) * 10.0 ** (rng.uniform(-4, 4) / 20.0) / 32768.0
                out[b, s] = stem * np.float32(gain)
        return torch.from_numpy(out)


@torch.no_grad()
def initialise(model: HTDemucs) -> None:
    """Start the outermost layers as the identity, a quarter of the mixture to every stem, half by each branch.

    The first convolution passes the four new values of each window (of each channel) and their negatives, since
    gelu(x) - gelu(-x) = x; the rewrite joins the two again, with its gate half open. The last decoder layer passes these content channels
    through gates, a copy per stem as far as its width goes, and puts the values back in their places.
    """
    width = model.channels
    for encoder, inner, decoder, inputs in (
        (model.encoder[0], model.decoder[-2], model.decoder[-1], 4),
        (model.tencoder[0], model.tdecoder[-2], model.tdecoder[-1], 2),
    ):
        content = 4 * inputs
        copies = width // content
        conv, rewrite = encoder.conv, encoder.rewrite
        weight = conv.weight.view(width, inputs, 8)
        for j in range(content):
            channel, tap = divmod(j, 4)
            for sign, row in ((1.0, 2 * j), (-1.0, 2 * j + 1)):
                weight[row] = 0.0
                weight[row, channel, 2 + tap] = sign
                conv.bias[row] = 0.0
        mix = rewrite.weight.view(2 * width, width)
        mix[:content] = 0.0
        mix[width : width + content] *= 0.1
        rewrite.bias[:content] = 0.0
        rewrite.bias[width : width + content] = 0.0
        for j in range(content):
            mix[j, 2 * j], mix[j, 2 * j + 1] = 2.0, -2.0

        inner.conv_tr.weight[:, :content] *= 0.1
        inner.conv_tr.bias[:content] = 0.0
        gates = decoder.rewrite.weight.view(2 * width, width)
        gates[:width] *= 0.02
        decoder.rewrite.bias[:] = 0.0
        out = decoder.conv_tr.weight.view(width, len(STEMS), inputs, 8)
        out *= 0.02
        decoder.conv_tr.bias[:] = 0.0
        for c in range(copies):
            share = torch.full((len(STEMS),), 1.0 / copies) if copies < len(STEMS) else torch.eye(len(STEMS))[c]
            if copies == 2:
                share = torch.tensor([[0.8, 0.5, 0.5, 0.2], [0.2, 0.5, 0.5, 0.8]])[c]
            for j in range(content):
                channel, tap = divmod(j, 4)
                gates[c * content + j, j] += 2.0
                out[c * content + j, :, channel, 2 + tap] += 0.125 * share
    model.freq_emb.embedding.weight[:, : 4 * 4] = 0.0


def loss_in_db(estimate: torch.Tensor, stems: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over the stems of the error's level in dB relative to the mixture's, plus a tenth of the level of what the stems' sum leaves
    of the mixture; and the errors' levels by stem, (4), for the log. Takes (batch, 4, 2, samples) twice.

    Neither is rewarded much below -17 and -28 dB: the slope of a logarithm grows as its argument falls, and silent stems and the sum, which
    are easy, would leave the hard stems no say.
    """
    mix = stems.sum(1)
    power = mix.square().mean((1, 2)) + 1e-7
    errors = (estimate - stems).square().mean((2, 3)) / power[:, None]
    rest = (estimate.sum(1) - mix).square().mean((1, 2)) / power
    loss = 10.0 * torch.log10(errors + 10**-1.7).mean() + torch.log10(rest + 10**-2.8).mean()
    return loss, 10.0 * torch.log10(errors.detach() + 10**-1.7).mean(0)


def validate(model: HTDemucs, songs: list[np.ndarray], device: str) -> dict[str, float]:
    """Median SDR improvement of each stem in dB over `songs` (4, 2, samples), and the least SNR of the stems' sum."""
    gains: dict[str, list[float]] = {stem: [] for stem in STEMS}
    sums = []
    for true in songs:
        mix = true.sum(axis=0)
        estimates = apply_model(model, torch.from_numpy(mix)[None], shifts=0, split=True, overlap=0.25, device=device)[0].cpu().numpy()
        for stem, wav, estimate in zip(STEMS, true, estimates, strict=True):
            gains[stem].append(sdr(wav, estimate) - sdr(wav, mix))
        sums.append(sdr(mix, estimates.sum(axis=0)))
    scores = {stem: statistics.median(values) for stem, values in gains.items()} | {"sum": min(sums)}
    return {key: round(value, 2) for key, value in scores.items()}


def export(model: HTDemucs, path: Path, how: dict[str, Any]) -> None:
    """Write float16 safetensors in the layout of the published models (`demucs.hf`)."""
    kwargs = {key: value for key, value in ARGUMENTS.items() if key != "sources"}
    metadata = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps([ARGUMENTS["sources"]]),
        "kwargs": json.dumps(kwargs),
        "licence": "MIT",
        "training": json.dumps(how),
    }
    partial = path.with_suffix(".partial")
    save_file({name: tensor.half().cpu().contiguous() for name, tensor in model.state_dict().items()}, partial, metadata)
    partial.rename(path)


class Training:
    """The state of a run: model, averaged model, optimiser, songs, clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder, self.device = options, Path(options.out), options.device
        torch.manual_seed(options.seed)
        model = HTDemucs(**ARGUMENTS)
        initialise(model)
        self.model = model.to(self.device).train()
        self.average = copy.deepcopy(self.model).eval()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
        self.pool = Pool(self.folder / "songs", options.songs)
        self.step = 0
        self.losses: list[list[float]] = []
        spent = self._resume()
        self.began = time.time() - spent

    @property
    def minutes(self) -> float:
        """By the clock since the run first began."""
        return (time.time() - self.began) / 60

    @property
    def done(self) -> float:
        """How much of the run lies behind, 0 to 1."""
        parts = ((self.step, self.options.steps), (self.minutes, self.options.minutes))
        return float(max(now / end for now, end in parts if end))

    def _resume(self) -> float:
        """Take up the checkpoint, if there is one; returns the seconds spent before."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return 0.0
        state = torch.load(path, weights_only=True, map_location=self.device)
        for name in ("model", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        return float(state["minutes"] * 60)

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser")}
        partial = self.folder / "checkpoint.partial"
        torch.save({**state, "step": self.step, "minutes": self.minutes}, partial)
        partial.rename(self.folder / "checkpoint.pt")

    def release(self, songs: list[np.ndarray]) -> None:
        """Validate the averaged weights and export them."""
        self.average.segment = ARGUMENTS["segment"]
        how = {key: getattr(self.options, key) for key in ("batch", "seconds", "rate", "seed")}
        how |= {"steps": self.step, "minutes": round(self.minutes), "songs": len(self.pool.songs)}
        how["validation"] = validate(self.average, songs, self.device)
        export(self.average, self.folder / "demo.safetensors", how)
        print(json.dumps(how), flush=True)

    def advance(self) -> None:
        """One step."""
        options = self.options
        self.pool.grow(self.step)
        rate = options.rate * min(1.0, (self.step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng((options.seed, self.step))
        stems = self.pool.batch(rng, options.batch, int(options.seconds * SAMPLE_RATE)).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            estimate = self.model(stems.sum(1))
        loss, levels = loss_in_db(estimate.float(), stems)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        decay = min(0.99, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        self.losses.append([loss.item(), *levels.tolist()])
        if self.step % 10 == 0:
            recent = " ".join(f"{statistics.mean(column):.2f}" for column in zip(*self.losses[-50:], strict=True))
            print(f"step {self.step}: loss, stems {recent}, rate {rate:.1e}, {self.minutes:.1f} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the songs, the checkpoint and the exported model")
    parser.add_argument("--steps", type=int, default=0, help="end after so many steps")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so many minutes by the clock")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of an excerpt")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--songs", type=int, default=1000, help="how many songs to make at most")
    parser.add_argument("--every", type=float, default=10.0, help="minutes between checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="1 where other programs want the processor as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if not (options.steps or options.minutes):
        parser.error("give --steps or --minutes")

    torch.set_num_threads(options.threads)
    worker = multiprocessing.get_context("spawn").Process(target=write_songs, args=(options.out / "songs", options.songs), daemon=True)
    worker.start()
    validation = [load_song(seed)[..., : 12 * SAMPLE_RATE] for seed in VALIDATION_SEEDS]
    training = Training(options)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    saved = time.time()
    while training.done < 1.0 and not stopped:
        training.advance()
        if time.time() - saved > 60 * options.every:
            training.save()
            training.release(validation)
            saved = time.time()
    training.save()
    if not stopped:
        training.release(validation)
    worker.terminate()


if __name__ == "__main__":
    main()
