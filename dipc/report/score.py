"""A measurement on text, dense beside sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from dipc.documents import JsonObject, document
from dipc.quantities import NONE, number, percent, share
from dipc.report.table import table

if TYPE_CHECKING:
    from dipc.evaluation.perplexity import OwnScore, Score


def own_score_dict(score: OwnScore) -> JsonObject:
    """The figures of a model by itself, and all that they depend on."""
    return document("perplexity", **_own(score))


def score_dict(score: Score) -> JsonObject:
    """All figures and all that they depend on. The trace is saved apart (`Trace.save`)."""
    return document(
        "score",
        **_own(score),
        kl_to_dense=score.kl_to_dense,
        density=score.density,
        hit_rate=score.hit_rate,
        cache_policy=score.cache_policy,
        dense={"perplexity": score.dense_perplexity, "bits_per_byte": score.dense_bits_per_byte},
    )


def _own(score: OwnScore) -> JsonObject:
    return {
        "model": {"name": score.model, "digest": score.digest},
        "method": score.method,
        "backend": score.backend,
        "text": {"name": score.text, "digest": score.text_digest},
        "protocol": {
            "name": score.protocol,
            "sparse": score.sparse_tokens,
            "scored": score.scored_tokens,
            "sparse_share": score.sparse_share,
            "sparse_scored": score.sparse_scored,
        },
        "seq_len": score.seq_len,
        "stride": score.stride,
        "prefill": score.prefill,
        "windows": score.windows,
        "tokens": score.tokens,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }


def score_table(score: Score) -> Group:
    """Dense and sparse in two columns, then what was measured on."""
    # An adapter that recovers what a method loses is not in the dense model, so it makes a difference by itself.
    sparse = score.method.name != "dense" or score.kl_to_dense > 0
    name = "with adapter" if score.method.name == "dense" else score.method.name
    rows = [
        ("perplexity", number(score.dense_perplexity), number(score.perplexity)),
        ("bits per byte", number(score.dense_bits_per_byte), number(score.bits_per_byte)),
        ("KL to dense, nats per token", NONE, number(score.kl_to_dense, 3)),
        ("density of the MLPs, measured", "1", share(score.density)),
        ("hit rate of the program's cache", NONE, percent(score.hit_rate)),
        ("cache policy", NONE, score.cache_policy),
        ("tokens scored", number(score.tokens), number(score.tokens)),
        ("of them made by a sparse token", NONE, percent(score.sparse_scored)),
    ]
    columns = ("", ">dense", *([f">{name}"] if sparse else []))
    return table(_title(score), columns, [row if sparse else row[:2] for row in rows if sparse or row[1] != NONE])


def own_score_table(score: OwnScore) -> Group:
    """The figures of a model by itself."""
    rows = [
        ("perplexity", number(score.perplexity)),
        ("bits per byte", number(score.bits_per_byte)),
        ("density, as compiled", share(score.method.density)),
        ("tokens scored", number(score.tokens)),
        ("of them made by a sparse token", percent(score.sparse_scored)),
    ]
    return table(_title(score), ("", f">{score.method.name}"), rows)


def _title(score: OwnScore) -> str:
    title = f"{score.model} on {score.text}: {score.windows} windows of at most {score.seq_len} tokens"
    title += f", one every {score.stride}" if score.stride < score.seq_len else ""
    title += f"; protocol {score.protocol}: sparse {score.sparse_tokens}, scored {score.scored_tokens}"
    return title if score.backend == "eager" else f"{title}; {score.backend}"
