"""Parts of a model that a trace can switch off: `PATH`, or `PATH:HEAD` for one head of an attention.

A part is switched off where it joins the rest, so that it contributes nothing:

    ….self_attn, ….cross_attn          what attention adds to the tokens; with `:HEAD`, that head's share of it
    crosstransformer.layers.N.linear2  what the feed-forward adds
    ….dconv, ….dconv.layers.N          what a residual branch adds, all of it or one layer
    ….dconv.layers.N.3 or .4           what a BLSTM or a LocalState in it adds; LocalState takes `:HEAD`
    lstm                               the LSTM of Demucs, around which nothing leads: its output is zero
    decoder.N.skip, tdecoder.N.skip    what the layer is given from the encoder

Models ask (`taps.ablated`, `taps.silenced`); what they ask for is what can be switched off.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence

from ..errors import UsageError, shown

Parts = Mapping[str, int]  # path -> its heads, 0 for what has none


class Ablation:
    """What is switched off, read from `names`. Raises UsageError for a name that cannot be read."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.whole: set[str] = set()
        self.heads: dict[str, list[int]] = {}
        for name in names:
            path, colon, head = name.partition(":")
            if colon and not (head.isascii() and head.isdecimal()):
                raise UsageError(f"{shown(name)} cannot be switched off: behind the colon stands no number of a head")
            if colon:
                self.heads.setdefault(path, []).append(int(head))
            else:
                self.whole.add(path)

    def check(self, parts: Parts) -> None:
        """Raise UsageError for what is none of a model's parts, with a list of them."""
        for name in self.names:
            path, colon, head = name.partition(":")
            if path not in parts:
                near = difflib.get_close_matches(path, parts, 1, cutoff=0)
                why = f" (the nearest that can is {near[0]})" if near else ""
            elif colon and not parts[path]:
                why = ": it has no heads"
            elif colon and int(head) >= parts[path]:
                why = f": its heads are 0 to {parts[path] - 1}"
            else:
                continue
            raise UsageError(f"{shown(name)} cannot be switched off{why}; what can: {listed(parts) or 'nothing'}")


def listed(parts: Parts) -> str:
    """All parts in short: `decoder.{0-3}.skip` stands for four, `….self_attn[:0-7]` has eight heads."""
    groups: dict[tuple[str, int], list[list[int]]] = {}
    for path, heads in parts.items():
        groups.setdefault((re.sub(r"\d+", "#", path), heads), []).append([int(number) for number in re.findall(r"\d+", path)])
    texts = []
    for (form, heads), rows in groups.items():
        columns = [sorted(set(column)) for column in zip(*rows, strict=True)]
        tables = [columns] if math.prod(map(len, columns)) == len(rows) else [[[number] for number in row] for row in rows]
        for table in tables:
            spelled = form.split("#")
            path = "".join(piece + numbers for piece, numbers in zip(spelled, [*map(_set, table), ""], strict=True))
            texts.append(path + (f"[:0-{heads - 1}]" if heads else ""))
    return ", ".join(texts)


def _set(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
