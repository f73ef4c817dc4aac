"""What is said of a comparison: sentences, the best row, Markdown and the plot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dipc.api import to_markdown
from dipc.report.comparison_findings import comparison_sentences
from dipc.report.plot import perplexity_plot
from dipc.studies.compare import Comparison, Row
from dipc.studies.compare.findings import findings
from dipc.studies.compare.result import Accuracy, Figures
from kit.paths import TESTS

GOLDEN = TESTS / "golden" / "comparison.md"


def made_up(**perplexities: tuple[float, ...]) -> Comparison:
    """A comparison at densities 0.5 and 0.4 with these perplexities; dense has 20."""
    rows = []
    for place, density in enumerate((0.5, 0.4)):
        for name, values in perplexities.items():
            label = {"oracle": "glu (oracle)", "dip_lora": "dip + LoRA"}.get(name, name)
            kind = {"oracle": "oracle", "dip_lora": "lora"}.get(name, "method")
            figures = Figures(
                float(values[place]), 1.0, 0.1, (2 + density) / 3 if name == "oracle" else density, None, 4e6, 6e6, 0
            )
            if name == "predictor":
                figures = replace(figures, overhead_bytes=1.2e6)
            rows.append(Row(name, label, kind, density, f"{name}{{density={density}}}", figures))
    rows.append(Row("up", "up", "method", 0.4, "up{density=0.4}", reason="cannot be reached"))
    dense = Row("dense", "dense", "dense", None, "", Figures(20.0, 1.0, 0.0, 1.0, None, 8e6, 1e7, 0))
    model = {"name": "made up", "digest": "00", "bits per weight": 16.0}
    protocol = {"text": "words", "tokens of a window": 64, "tokens scored": 1000, "scope": "all", "seed": 0}
    found = Comparison(model, protocol, dense, tuple(rows))
    return replace(found, findings=tuple(findings(found)))


def test_the_papers_order_is_confirmed_in_plain_words() -> None:
    found = made_up(oracle=(21, 22), gate=(60, 900), predictor=(40, 50), dip=(30, 40), dip_lora=(24, 33), wina=(29, 41))
    assert comparison_sentences(found) == [
        "The GLU oracle is better than every method without LoRA at 0.5 (21.00 beside 29.00, at densities 0.833 and "
        "0.5, wina) and 0.4 (22.00 beside 40.00, at densities 0.8 and 0.4, dip).",
        "dip is better than gate at 0.5 (30.00 beside 60.00) and 0.4 (40.00 beside 900.0).",
        "dip is better than predictor at 0.5 (30.00 beside 40.00) and 0.4 (40.00 beside 50.00).",
        "LoRA recovers, of the perplexity that dip lost, 60.0 % at 0.5 (24.00 beside 30.00) and 35.0 % at 0.4 (33.00 "
        "beside 40.00).",
        "wina is better than dip at 0.5 (29.00 beside 30.00).",
        "wina is worse than dip at 0.4 (41.00 beside 40.00).",
        "Overhead, in shares of the dense MLPs' bytes, counted here but by no density: predictor 15.0 %.",
    ]


def test_another_order_than_the_papers_is_said_to_be_one() -> None:
    found = made_up(oracle=(31, 32), gate=(25, 900), dip=(30, 40))
    assert comparison_sentences(found)[1:] == [
        "The GLU oracle is not the best at 0.5 (31.00 beside 25.00, at densities 0.833 and 0.5, gate); the paper "
        "(models of 4 to 14 B parameters) has it the other way.",
        "dip is better than gate at 0.4 (40.00 beside 900.0).",
        "dip is not better than gate at 0.5 (30.00 beside 25.00); the paper (models of 4 to 14 B parameters) has it "
        "the other way.",
    ]


def test_the_papers_dip_is_the_one_with_shared_out_densities() -> None:
    found = made_up(gate=(25, 45), dip=(30, 50), **{"dip, split": (24, 40)})
    assert comparison_sentences(found) == [
        "dip, split is better than gate at 0.5 (24.00 beside 25.00) and 0.4 (40.00 beside 45.00).",
        "dip, split is better than dip at 0.5 (24.00 beside 30.00) and 0.4 (40.00 beside 50.00).",
    ]


def test_the_best_row_competes() -> None:
    found = made_up(oracle=(21, 22), dip=(30, 40), gate=(29, 50), dip_lora=(24, 33))
    assert [found.best(d).label for d in (0.5, 0.4)] == ["gate", "dip"]  # type: ignore[union-attr]
    gate = found.rows[2].figures
    assert gate is not None
    for cheat in (replace(gate, density=0.55), replace(gate, resident_bytes=2e7)):
        other = replace(found, rows=(*found.rows[:2], replace(found.rows[2], figures=cheat)))
        assert other.best(0.5) is found.rows[1]


@pytest.mark.smoke
def test_the_markdown(request: pytest.FixtureRequest) -> None:
    found = made_up(oracle=(21, 22), predictor=(40, 50), dip=(30, 400), dip_lora=(24, 33))
    dip = replace(found.rows[2], tasks={"mmlu": Accuracy("acc", 0.4321, None, 100, 5)})
    text = to_markdown(replace(found, rows=(*found.rows[:2], dip, *found.rows[3:])))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_plot_names_every_method() -> None:
    pytest.importorskip("matplotlib")
    found = made_up(oracle=(21, 22), dip=(30, 40), dip_lora=(24, 33), gate=(60, 9000), wina=(29, 39))
    plot = perplexity_plot(found)
    drawn = plot["svg"].decode()
    for text in (
        "glu (oracle)",
        "dip + LoRA",
        "wina",
        "dense, 20.00",
        "above the axis: gate 9,000 at 0.4",
        "made up on",
    ):
        assert text in drawn
    assert plot["png"].startswith(b"\x89PNG")
    assert perplexity_plot(found) == plot


def test_a_plot_of_nothing_but_dense() -> None:
    pytest.importorskip("matplotlib")
    assert perplexity_plot(made_up(dip=(float("inf"), float("nan"))))["png"].startswith(b"\x89PNG")
