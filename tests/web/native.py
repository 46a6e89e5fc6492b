"""What the native engine makes of the cases: `python native.py MODEL CASES.json FOLDER`, in the environment of a module."""

import json
import sys
from pathlib import Path

import numpy as np

from demucs_np import Separator, load_model
from demucs_np.threads import use_threads

model, folder = load_model(sys.argv[1]), Path(sys.argv[3])
for case in json.loads(Path(sys.argv[2]).read_text()):
    wav = np.fromfile(folder / case["input"], np.float32).reshape(case["channels"], -1)
    options = dict(case.get("options", {}))
    rate, normalize = options.pop("sampleRate", model.samplerate), options.pop("normalize", True)
    with use_threads(2):
        if normalize:
            _, stems = Separator(model, **options).separate_array(wav, rate)
        else:
            from demucs_np import apply_model

            out = apply_model(model, wav, **options)
            stems = dict(zip(options.get("stems") or model.sources, out, strict=True))
    np.concatenate(list(stems.values())).tofile(folder / f"native-{case['name']}")
