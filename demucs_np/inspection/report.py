"""What `demucs-np inspect` says, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..models.ablation import listed
from ..models.bag import Model
from ..models.config import Config
from ..weights.resolve import resolve
from .module_times import Times, measure
from .outline import Module, extras, modules, parts, segment_samples

WIDTH = 118  # of the wrapped lines of arguments


def report(
    name: str, *, repo: Path | None = None, timed: bool = False, threads: int | None = None, depth: int = 3, as_json: bool = False
) -> str:
    """What a model is made of; of a bag, its members and their weights, and each architecture once.

    `timed` runs one segment of each, on `threads`, for the modules' shares; `depth` is that of the paths in the tables, JSON has all.
    """
    named = resolve(name, repo=repo)
    models = {model.config: model for model in reversed(named.load().models)} if timed else {}
    distinct = {key: member.config() for key, member in named.distinct.items()}
    configs = list(dict.fromkeys(distinct.values()))
    weights = named.weights or [[1.0] * len(configs[0].sources)] * len(named.members)
    members = [(member.name, configs.index(distinct[member.name]), row) for member, row in zip(named.members, weights, strict=True)]
    trees = [(config, modules(config)) for config in configs]
    found = [(config, tree, measure(_opened(models[config]), tree, threads=threads) if timed else None) for config, tree in trees]
    if as_json:
        return json.dumps(_as_json(members, found), indent=1, default=_plain)
    texts = [_bag_table(members, configs[0].sources)] if len(members) > 1 else []
    for number, (config, tree, times) in enumerate(found, 1):
        title = f"architecture {number}: " if len(found) > 1 else ""
        texts += [title + _description(config, tree), _tree_table(tree, times, depth), _extras(config)]
    return "\n".join(texts)


Member = tuple[str, int, Sequence[float]]  # name, number of its architecture, weight for each stem


def _opened(model: Model) -> Model:
    """The model itself, of one that is opened when its turn comes."""
    from ..models.late import LateModel

    return model.opened() if isinstance(model, LateModel) else model


def _bag_table(members: Sequence[Member], sources: Sequence[str]) -> str:
    rows = [("member", "architecture", *sources)]
    for name, architecture, weights in members:
        rows.append((name, str(architecture + 1), *(f"{weight:g}" for weight in weights)))
    return f"a bag of {len(members)} models, and the weight of each for each stem\n\n{_columns(rows, '<' + '>' * (len(rows[0]) - 1))}\n"


def _description(config: Config, tree: list[Module]) -> str:
    seconds = float(config.segment)
    root = tree[0]
    lines = [
        f"{config.klass}: {', '.join(config.sources)}; {config.audio_channels} channels at {config.samplerate} Hz",
        f"one segment of {seconds:g} s is {segment_samples(config)} samples; {root.parameters:,} parameters in "
        f"{sum(len(module.tensors) for module in tree)} tensors; {root.multiply_adds / 1e9:.2f} G multiply-adds a segment, "
        f"{root.multiply_adds / seconds / 1e9:.2f} G a second of audio",
        "",
    ]
    changed: list[str] = []
    default: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        (default if value == field.default else changed).append(f"{field.name}={_shown(value)}")
    for title, values in (("arguments", changed), ("defaults", default)):
        lines += textwrap.wrap(f"{title + ':':11}{', '.join(values)}", WIDTH, subsequent_indent=" " * 11, break_long_words=False)
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Fraction) else repr(value)


def _tree_table(tree: list[Module], times: Times | None, depth: int) -> str:
    rows = [("module", "kind", "output shape", "parameters", "multiply-adds", *(["time"] if times else []))]
    for module in tree[1:]:
        if module.path.count(".") < depth:
            rows.append(_row(module.path, module, times.modules.get(module.path, 0) / times.total if times else None))
    rows.append(_row("total", tree[0], 1.0 if times else None))
    text = _columns(rows, "<<<>>>")
    if times:
        outside = "; ".join(f"{what} {seconds / times.total:.1%}" for what, seconds in times.outside.items())
        text += f"\n\n{times.total:.2f} s a segment; outside the modules: {outside}"
    return text


def _extras(config: Config) -> str:
    """What `trace` records beside the modules with a star, if it is asked by name, and what it switches off."""
    owners: dict[str, list[str]] = {}
    for path in extras(config):
        owners.setdefault(path.rpartition(".")[0], []).append(path.rpartition(".")[2])
    kinds: dict[tuple[str, ...], list[str]] = {}
    for owner, names in owners.items():
        kinds.setdefault(tuple(names), []).append(owner)
    text = ""
    for what, of in kinds.items():
        text += _wrapped(f"asked for by name, {' and '.join(what)} of {', '.join(of)}")
    return text + _wrapped(f"can be switched off: {listed(parts(config)) or 'nothing'}")


def _wrapped(line: str) -> str:
    return "\n" + textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _row(path: str, module: Module, share: float | None) -> tuple[str, ...]:
    shape = "" if module.shape is None else f"({', '.join(map(str, module.shape))})"
    work = _short(module.multiply_adds)
    return (path + (" *" if module.traced else ""), module.kind, shape, f"{module.parameters:,}", work) + (
        () if share is None else (f"{share:.1%}" if share else "",)
    )


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count) if count else ""


def _columns(rows: Sequence[tuple[str, ...]], align: str) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, align, widths, strict=False)).rstrip() for row in rows]
    return "\n".join(lines)


def _as_json(members: Sequence[Member], found: list[tuple[Config, list[Module], Times | None]]) -> dict[str, Any]:
    return {
        "members": [{"name": name, "architecture": architecture, "weights": row} for name, architecture, row in members],
        "architectures": [
            {
                "class": config.klass,
                "arguments": dataclasses.asdict(config),
                "samples": segment_samples(config),
                "extras": extras(config),
                "parts": parts(config),
                "seconds": times and {"total": times.total, "outside": times.outside},
                "modules": [dataclasses.asdict(module) | ({"seconds": times.modules.get(module.path)} if times else {}) for module in tree],
            }
            for config, tree, times in found
        ],
    }


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no form in JSON")
