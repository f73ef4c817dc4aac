"""The words of the page: what the study is, its main figures, its findings, and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dipc.quantities import NONE, format_bytes, number
from dipc.report.html.markup import Markup, element, joined
from dipc.report.html.tables import assumptions_table, facts
from dipc.report.study_findings import study_sentences
from dipc.report.study_view import View, distinct, increase_text, knows_future, name, setting
from dipc.version import __version__

if TYPE_CHECKING:
    from dipc.studies.study.result import Study, Target

_MOST_TILES = 4
_FIRST_FINDINGS = 8


def header(view: View) -> Markup:
    """Return what was studied, and what kind of figures these are."""
    study = view.study
    simulated = "Tokens per second are simulated from the memory traffic of every token; no device was timed."
    if not study.model.get("has_weights", True):
        measured = "No perplexity: the model is known by its config alone."
    elif study.text is None:
        measured = "No perplexity was measured."
    else:
        measured = f"Perplexity is measured on {study.text['name']}, {number(study.text['tokens'])} tokens."
    made_up = [p for p in view.priced if p.source.startswith("synthetic")]
    parts = [
        element("p", element("span", "simulated", class_="badge"), " dipc study", class_="eyebrow"),
        element("h1", str(study.model["name"]), element("span", " on ", class_="soft"), str(study.device["name"])),
        element("p", str(study.device["description"]), class_="soft"),
        element("p", f"{simulated} {measured}", class_="lead"),
    ]
    if made_up:
        warning = f"{len(made_up)} of {len(view.priced)} points rest on synthetic activity, not on a run of the model."
        parts.append(element("p", warning, class_="warning"))
    if study.failures:
        parts.append(
            element(
                "p",
                f"{len(study.failures)} of {len(study.points)} points failed; the table says why.",
                class_="warning",
            )
        )
    return element("header", *parts)


def tiles(view: View) -> Markup:
    """The dense model, and the best of each perplexity that was aimed at, at the main setting."""
    dense = view.dense(view.base)
    shown = [] if dense is None else [_tile(number(dense.throughput, 3), "dense", _dense_says(view))]
    for increase in distinct(t.max_ppl_increase for t in view.study.targets):
        here = [t for t in view.study.targets if t.max_ppl_increase == increase and setting(t) == view.base]
        best = max((t for t in here if t.tokens_per_second and not knows_future(t.policy)), key=_reach, default=None)
        title = f"perplexity at most {increase_text(increase)}"
        shown.append(_tile(NONE, title, "not reached") if best is None else _target_tile(best, title))
    if not view.study.targets:
        usual = [view.usual(method, view.base) for method in view.methods]
        shown += [
            _tile(number(p.throughput, 3), name(p), f"{_times(p.cost.speedup)} dense")
            for p in sorted((p for p in usual if p is not None), key=lambda p: -p.throughput)
            if p.cost is not None
        ]
    if view.base is None:
        return element("p", "No point of this study has a price.", class_="warning")
    at = element("p", f"With {view.base.text}:", class_="soft tiles-at")
    return joined(at, element("div", *shown[:_MOST_TILES], class_="tiles"))


def _dense_says(view: View) -> str:
    perplexity = view.study.dense_perplexity
    return "every weight, every token" if perplexity is None else f"perplexity {number(perplexity)}"


def _target_tile(target: Target, title: str) -> Markup:
    gamma = "" if target.gamma is None else f", gamma {target.gamma:g}"
    how = ", interpolated" if target.interpolated else ""
    return _tile(
        number(target.tokens_per_second, 3), title, f"{target.method}{gamma}: {_times(target.speedup)} dense{how}"
    )


def _tile(figure: str, title: str, below: str) -> Markup:
    value = element("p", figure, element("span", " tok/s", class_="unit"), class_="value")
    return element(
        "div", element("p", title, class_="title"), value, element("p", below, class_="below"), class_="tile"
    )


def _times(value: float | None) -> str:
    return f"{number(value, 3)} x"


def _reach(target: Target) -> float:
    return target.tokens_per_second or 0.0


def findings_section(study: Study) -> Markup | None:
    """The study's own sentences; where there are many, the first ones at once."""
    items = [element("li", sentence) for sentence in study_sentences(study)]
    if not items:
        return None
    first, rest = items[:_FIRST_FINDINGS], items[_FIRST_FINDINGS:]
    parts = [element("ul", *first, class_="findings")]
    if rest:
        more = element("summary", f"{len(rest)} more")
        parts.append(element("details", more, element("ul", *rest, class_="findings")))
    return element("div", *parts, class_="card")


def device_section(study: Study) -> Markup | None:
    """Every figure of the device with its kind and source."""
    return assumptions_table(study) if study.device.get("assumptions") else None


def facts_section(view: View) -> Markup:
    """Everything else that would change a figure."""
    study = view.study
    rows = [*_model(study), *_text(study)]
    rows += [
        ("scope", study.scope),
        ("eviction policies", ", ".join(distinct(p.policy for p in study.points)) or NONE),
        ("activity", "; ".join(distinct(p.source for p in study.points if p.source)) or NONE),
        ("tokens that fill the cache", number(study.warmup)),
        ("seed of activity that is made up", str(study.seed)),
        ("device file", str(study.device.get("file") or NONE)),
        *_flat(study.settings),
        ("page written by", f"dipc {__version__}"),
    ]
    return joined(facts(rows))


def _model(study: Study) -> Iterator[tuple[str, str]]:
    model = study.model
    yield "model", f"{model['name']}" + ("" if model.get("has_weights", True) else ", by its config, without weights")
    yield "model's digest", str(model.get("digest") or NONE)
    yield "size, dense", f"{format_bytes(model['bytes'])} at {number(float(model['bits_per_weight']))} bits per weight"


def _text(study: Study) -> Iterator[tuple[str, str]]:
    if study.text is None:
        yield "text", NONE
        return
    text = study.text
    yield "text", f"{text['name']} ({text['digest']})"
    yield "tokens scored", f"{number(text['tokens'])} in windows of {number(text['seq_len'])}; {text['protocol']}"


def _flat(settings: Mapping[str, object], path: str = "") -> Iterator[tuple[str, str]]:
    """Settings within settings by their path."""
    for key, value in settings.items():
        title = f"{path}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}: ")
        else:
            yield title, _written(value)


def _written(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_written, value))
    return number(value) if isinstance(value, (int, float)) else str(value)
