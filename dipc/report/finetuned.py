"""A trained adapter: what it wins back, on text that it was not trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group

from dipc.documents import JsonObject, document, json_value
from dipc.quantities import NONE, number, percent, share
from dipc.report.table import facts, table

if TYPE_CHECKING:
    from dipc.tuning.lora.finetune import Finetuned


def finetuned_dict(result: Finetuned) -> JsonObject:
    """All figures, and all that they depend on."""
    return document("finetuned", **json_value(result), passes=result.passes)


def finetuned_tables(result: Finetuned) -> list[Group]:
    """Dense, sparse and recovered side by side, then the training."""
    recipe, measured = result.recipe, (result.dense, result.before, result.after)
    title = f"{recipe.model}, {recipe.pipeline}, on the last {result.held_out} windows of {recipe.text}, held out"
    rows = [
        ("perplexity", *(number(q.perplexity) for q in measured)),
        ("KL to dense, nats per token", NONE, *(number(q.divergence, 3) for q in measured[1:])),
        ("of the perplexity lost, won back", NONE, NONE, percent(_recovered(result))),
    ]
    tenth = max(1, len(result.losses) // 10)
    first, last = sum(result.losses[:tenth]) / tenth, sum(result.losses[-tenth:]) / tenth
    training = [
        ("adapters", f"{number(len(result.modules))} of rank {recipe.rank}, {number(result.parameters)} parameters"),
        ("density of the MLPs", share(result.density)),
        ("iterations", f"{number(recipe.iterations)} of {recipe.batch} x {recipe.seq_len} tokens"),
        ("windows trained on", number(result.windows)),
        ("learning rate, seed", f"{recipe.learning_rate:g}, {recipe.seed}"),
        ("KL, first and last tenth", f"{number(first, 3)}, {number(last, 3)}"),
        ("time", f"{number(result.seconds)} s, {number(result.seconds / recipe.iterations, 3)} s an iteration"),
    ]
    return [table(title, ("", ">dense", ">sparse", ">with adapters"), rows), facts("training", training)]


def _recovered(result: Finetuned) -> float | None:
    """Share of the perplexity lost that the adapters win back; None where none was lost, or more than can be said."""
    dense, before, after = (quality.perplexity for quality in (result.dense, result.before, result.after))
    return (before - after) / (before - dense) if dense < before < math.inf else None
