"""Make the committed golden files again: `python tests/make_goldens.py [CASE ...]`, where torch and demucs are installed."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, MIX_SEED, SAMPLES, SKETCH, Case

from demucs_np.parity.recipe import draw_mix
from demucs_np.parity.record import Golden, decibels
from demucs_np.parity.upstream import build, make_golden

FOLDER = Path(__file__).parent / "golden"


def make(case: Case) -> Golden:
    model = build(case.klass, case.arguments, case.seed)
    mix = draw_mix(MIX_SEED, case.channels, case.length, model.samplerate)
    source = {"seed": MIX_SEED, "channels": case.channels, "length": case.length}
    return make_golden(model, mix, seed=case.seed, source=source, samples=SAMPLES, sums=SKETCH)


def main(names: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    size = 0
    for case in CASES:
        path = FOLDER / f"{case.name}.safetensors"
        if not names or case.name in names:
            start = time.monotonic()
            golden = make(case)
            golden.save(path)
            seconds = time.monotonic() - start
            worst = min(golden.layers.values(), key=lambda layer: decibels(layer.norm, layer.error))
            output = golden.layers["output"]
            print(
                f"{case.name:26} {seconds:5.2f} s {path.stat().st_size / 1000:6.0f} kB {len(golden.layers):3} layers, PyTorch's SNR: "
                f"output {decibels(output.norm, output.error):5.1f} dB, worst {decibels(worst.norm, worst.error):5.1f} at {worst.name}"
            )
        size += path.stat().st_size
    print(f"{size / 1e6:.2f} MB together")


if __name__ == "__main__":
    main(sys.argv[1:])
