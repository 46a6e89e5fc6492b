"""Train the bundled demo model: an HTDemucs of the reference's own class on synthesised songs. Needs the `[train]` extra.

    python -m demucs_np.weights.train_demo --out training --minutes 100

Songs come from `demucs_np.demo.song`; a worker process writes them into `<out>/songs` while training runs. Step `s` draws from the first
`songs_at(s)` seeds and waits for them, so data, augmentation and initial weights follow from `--seed`. The learning rate follows the steps
(`--steps`, reproducible) or the clock (`--minutes`, for a machine that is shared). A run that is stopped goes on from its checkpoint.

What makes a short run on a CPU enough:
- the outermost layers start as an analysis and a synthesis of the signal (`initialise`), so that the untrained model returns a quarter of
  the mixture for each stem and training begins with the gates that tell the stems apart;
- bfloat16 products, a decoder without 3x3 convolutions (`context=0`), a narrow transformer;
- a loss in decibels, equal for loud and soft stems, and an average of the weights over the last steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file

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


def loss_in_db(estimate: torch.Tensor, stems: torch.Tensor) -> torch.Tensor:
    """The mean over the stems of the error's level in dB relative to the mixture's, not rewarded below -25 dB; plus a fifth of the level of
    what the stems' sum leaves of the mixture, down to -45 dB. (batch, 4, 2, samples) both."""
    mix = stems.sum(1)
    power = mix.square().mean((1, 2)) + 1e-7
    errors = (estimate - stems).square().mean((2, 3)) / power[:, None]
    rest = (estimate.sum(1) - mix).square().mean((1, 2)) / power
    return 10.0 * torch.log10(errors + 10**-2.5).mean() + 2.0 * torch.log10(rest + 10**-4.5).mean()


@torch.no_grad()
def validate(model: HTDemucs, songs: list[np.ndarray]) -> dict[str, float]:
    """Median SDR improvement of each stem in dB over the songs, and the least SNR of the stems' sum."""
    gains: dict[str, list[float]] = {stem: [] for stem in STEMS}
    sums = []
    for song in songs:
        true = torch.from_numpy(song)
        mix = true.sum(0)
        estimate = apply_model(model, mix[None], shifts=0, split=True, overlap=0.25)[0]
        for i, stem in enumerate(STEMS):
            before, after = ((x - true[i]).square().sum() for x in (mix, estimate[i]))
            gains[stem].append(float(10 * torch.log10(before / after)))
        sums.append(float(10 * torch.log10(mix.square().sum() / (estimate.sum(0) - mix).square().sum())))
    return {**{stem: statistics.median(values) for stem, values in gains.items()}, "sum": min(sums)}


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
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, partial, metadata)
    partial.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the songs, the checkpoint and the exported model")
    parser.add_argument("--steps", type=int, default=0, help="end after so many steps")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so many minutes by the clock")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an excerpt")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--songs", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=float, default=6.0, help="minutes between checkpoints")
    parser.add_argument("--plain", action="store_true", help="the reference's own initial weights")
    options = parser.parse_args()
    if not (options.steps or options.minutes):
        parser.error("give --steps or --minutes")

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder: Path = options.out
    worker = multiprocessing.get_context("spawn").Process(target=write_songs, args=(folder / "songs", options.songs), daemon=True)
    worker.start()
    model = HTDemucs(**ARGUMENTS).train()
    if not options.plain:
        initialise(model)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    average = copy.deepcopy(model).eval()
    validation = [load_song(seed)[..., : 12 * SAMPLE_RATE] for seed in VALIDATION_SEEDS]
    pool = Pool(folder / "songs", options.songs)
    samples = int(options.seconds * SAMPLE_RATE)

    step, spent, checkpoint = 0, 0.0, folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    began, saved, losses = time.time() - spent, time.time(), []

    while True:
        done = max(step / options.steps if options.steps else 0.0, (time.time() - began) / 60 / options.minutes if options.minutes else 0.0)
        if time.time() - saved > 60 * options.every or done >= 1.0:
            average.segment = ARGUMENTS["segment"]
            scores = validate(average, validation)
            spent = time.time() - began
            torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                        "step": step, "spent": spent}, folder / "checkpoint.partial")  # fmt: skip
            (folder / "checkpoint.partial").rename(checkpoint)
            how = {"steps": step, "minutes": round(spent / 60), "batch": options.batch, "seconds": options.seconds, "seed": options.seed,
                   "songs": len(pool.songs), "validation": {key: round(value, 2) for key, value in scores.items()}}  # fmt: skip
            export(average, folder / "demo.safetensors", how)
            print(json.dumps(how), flush=True)
            saved = time.time()
        if done >= 1.0:
            break
        pool.grow(step)
        rate = options.rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        stems = pool.batch(np.random.default_rng((options.seed, step)), options.batch, samples)
        with torch.autocast("cpu", torch.bfloat16):
            estimate = model(stems.sum(1))
        loss = loss_in_db(estimate.float(), stems)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.item())
        step += 1
        if step % 10 == 0:
            recent = statistics.mean(losses[-10:])
            print(f"step {step} loss {recent:.3f} norm {norm:.2f} rate {rate:.1e} {(time.time() - began) / step:.2f} s/step", flush=True)
    worker.terminate()


if __name__ == "__main__":
    main()
