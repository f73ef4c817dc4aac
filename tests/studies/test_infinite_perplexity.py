"""A model whose perplexity is infinite goes through comparisons, studies, their folders, pages and plots."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import dipc
from dipc.api import Program, compare, run_study, to_dict, to_markdown
from dipc.report import study_folder
from dipc.report.plot import perplexity_plot
from dipc.report.study_file import read_study
from dipc.text import Text
from kit.byte_text import WORDS, byte_tokenizer
from kit.tiny_models import tiny_llama

TEXT = Text("words", WORDS * 2)


@pytest.fixture(scope="module")
def steep() -> Program:
    """Its losses are thousands of nats a token."""
    base = tiny_llama(vocab_size=257, tie_word_embeddings=False).replace(tokenizer=byte_tokenizer())
    weights = {name: w * 1e6 if name == "lm_head.weight" else w for name, w in base.weights.items()}
    return dipc.compile(base.replace(weights=weights), "outline-glu").program


def test_a_comparison(steep: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    monkeypatch.setattr(study_folder, "perplexity_plot", lambda _: {})
    found = compare(steep, "dip,glu,up", (0.5,), text=TEXT, out=tmp_path / "c")
    assert not found.failures and {row.figures and row.figures.perplexity for row in found.rows} == {math.inf}
    assert compare(steep, "dip,glu,up", (0.5,), text=TEXT, out=tmp_path / "c") == found
    assert '"perplexity": "inf"' in json.dumps(to_dict(found), allow_nan=False)
    assert "| inf |" in to_markdown(found) and "nan" not in to_markdown(found)
    assert b"up inf at 0.5" in perplexity_plot(found)["svg"]


def test_a_study(steep: Program, tmp_path: Path) -> None:
    options = {"densities": (0.6, 0.5), "dram": ("90%",), "max_ppl_increase": ("0.5", "5%"), "text": TEXT, "step": 0}
    found = run_study(steep, "dip", out=tmp_path / "s", **options)
    assert not found.failures and found.dense_perplexity == math.inf
    assert {point.perplexity for point in found.points} == {math.inf}
    assert run_study(steep, "dip", out=tmp_path / "s", **options) == found
    kept = read_study(tmp_path / "s")
    assert [(p.id, p.perplexity) for p in kept.points] == [(p.id, p.perplexity) for p in found.points]
    (page,) = dipc.write_report(kept, tmp_path / "page.html")
    shown = Path(page).read_text("utf-8").partition("<script>")[0]
    assert ">inf<" in shown and "nan" not in shown.lower().replace("nano", "")
