"""A GGUF file on the command line, where any model may stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dipc.cli import main
from dipc.cli.model import describe_model
from kit.gguf_files import write_gguf
from kit.tiny_models import tiny_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_model(vocab_size=258), tokenizer=True)


def test_it_is_described_without_its_weights(file: Path) -> None:
    assert describe_model(str(file), False) == {
        "model": str(file),
        "kind": "a GGUF file",
        "family": "llama",
        "layers": 2,
    }


def test_it_is_compiled_and_evaluated(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["compile", str(file), "--passes", "dip{density=0.5}", "-o", str(out)]) == 0
    capsys.readouterr()
    text = tmp_path / "text.txt"
    text.write_text("The river rose over the bridge on Tuesday. " * 5)
    assert main(["eval", str(out), "--text", str(text), "--seq-len", "32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["name"] == "tiny" and found["perplexity"] > 1
