"""What the shell offers after a Tab: commands and files, names of models, the stems of the model that is named."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from ..errors import DemucsError


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names that a model may have, of the folder that --repo names if it does; a file of one's own where none begins so."""
    from ..weights import catalog, list_models

    try:
        names = list_models(ctx.params.get("repo"))
    except DemucsError:  # of a folder that is not there: it is said when the command runs
        return []
    about = {bag.name: bag.about for bag in [*catalog.BAGS.values(), *catalog.OTHERS.values(), catalog.DEMO]}
    found = [CompletionItem(name, help=about.get(name)) for name in (*names["bag"], *names["single"]) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def stems(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The stems of the published model that -n names; of several, the one after the last comma."""
    from ..weights import catalog

    bag = (catalog.BAGS | catalog.OTHERS | {"demo": catalog.DEMO}).get(str(ctx.params.get("sig") or ctx.params.get("name")))
    *chosen, last = incomplete.split(",")
    names = bag.stems if bag else catalog.SIX_STEMS
    return [CompletionItem(",".join([*chosen, name])) for name in names if name.startswith(last) and name not in chosen]
