"""A text ends at any of the model's end tokens, as in transformers, wherever the model has been meanwhile."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dipc.api import Program, capture, compile, export, generate, load, save
from dipc.artifact.manifest import NAME
from dipc.errors import BadFile
from kit.byte_text import CONTEXT, byte_tokenizer
from kit.command_line import Cli
from kit.paths import ROOT
from kit.tiny_models import tiny_model

PROMPT = "The city council"
NEW = 24


def saved(folder: Path, ends: object = None, text: str | None = None) -> Path:
    """A model's folder whose generation_config.json lists these ends, or is this text."""
    made: Any = tiny_model(
        vocab_size=257,
        max_position_embeddings=CONTEXT,
        eos_token_id=0,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(str(folder))
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": ends}) if text is None else text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What the model writes where nothing ends it: tokens, some of them several times."""
    folder = saved(tmp_path_factory.mktemp("plain") / "tiny")
    return by_transformers(folder)


def by_transformers(folder: Path) -> list[int]:
    """Its greedy continuation, without the end."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([byte_tokenizer()(PROMPT)["input_ids"]])
    made: list[int] = model.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)[
        0, ids.shape[1] :
    ].tolist()
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return made[:-1] if made[-1] in listed else made


def two_ends(plain: list[int]) -> list[int]:
    """A token that is never made, and one that first is after some others."""
    place = next(i for i in range(3, NEW) if plain[i] not in plain[:i])
    return [next(i for i in range(1, 257) if i not in plain), plain[place]]


def written(program: Program) -> str:
    return generate(program, PROMPT, max_new_tokens=NEW).text


def test_any_of_several_ends_a_text_everywhere(plain: list[int], tmp_path: Path, cli: Cli) -> None:
    ends = two_ends(plain)
    folder = saved(tmp_path / "tiny", ends)
    expected = byte_tokenizer().decode(by_transformers(folder))
    assert expected == byte_tokenizer().decode(plain[: plain.index(ends[1])])
    program = capture(folder)
    assert program.info.eos_ids == tuple(ends)
    compiled = compile(program, "dip{density=1.0}")
    save(compiled, tmp_path / "out")
    assert load(tmp_path / "out").info == program.info
    for one in (program, compiled.program, load(tmp_path / "out")):
        assert written(one) == expected
    found = cli("run", tmp_path / "out", "--prompt", PROMPT, "--max-new-tokens", NEW, "--json", "--quiet").json()
    assert found["text"] == expected


@pytest.mark.parametrize("ends", [None, [], -1, 0, [0, 0], [300, -1]])
def test_where_none_is_said_the_tokenizer_s_ends_a_text(ends: object, plain: list[int], tmp_path: Path) -> None:
    program = capture(saved(tmp_path / "tiny", ends))
    assert set(program.info.eos_ids) <= {0, 300}
    assert written(program) == byte_tokenizer().decode(plain)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(two_ends(plain)[1])
    assert written(program.replace(tokenizer=tokenizer)) == byte_tokenizer().decode(
        plain[: plain.index(two_ends(plain)[1])]
    )


def test_an_artifact_of_before_loads(plain: list[int], tmp_path: Path) -> None:
    program = capture(saved(tmp_path / "tiny", [5, 7]))
    save(program, tmp_path / "out")
    file = tmp_path / "out" / NAME
    data = json.loads(file.read_text())
    del data["model"]["eos_ids"], data["sha256"]
    body = json.dumps(data, indent=2) + "\n"
    data["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    file.write_text(json.dumps(data, indent=2) + "\n")
    old = load(tmp_path / "out")
    assert old.info.eos_ids == ()
    assert written(old) == byte_tokenizer().decode(plain)


def test_an_exported_model_ends_there_too(plain: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from dipc.backends.onnx.metadata import read_metadata
    from dipc.backends.onnx.session import OnnxSession

    ends = two_ends(plain)
    export(capture(saved(tmp_path / "tiny", ends)), "onnx", tmp_path / "onnx")
    session = OnnxSession(tmp_path / "onnx")
    expected = byte_tokenizer().decode(plain[: plain.index(ends[1])])
    assert session.identity.eos_ids == tuple(ends)
    assert session.identity.vocab == 257
    assert generate(session, PROMPT, max_new_tokens=NEW).text == expected
    pairs = session.metadata.to_map()
    del pairs["dipc.eos_ids"]
    assert read_metadata(tmp_path, pairs).eos_ids == ()
    with pytest.raises(BadFile, match="eos_ids"):
        read_metadata(tmp_path, {**pairs, "dipc.eos_ids": '["x"]'})
    alone(["run_onnx.py", str(tmp_path / "onnx"), "--prompt", PROMPT, "--max-new-tokens", str(NEW)])
    assert capsys.readouterr().out == expected + "\n"


def alone(arguments: list[str]) -> None:
    """Run the example that knows nothing of dipc."""
    spec = importlib.util.spec_from_file_location("run_onnx", ROOT / "examples" / "run_onnx.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        example.main()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("", "is empty"),
        ("[]", "must hold a JSON object"),
        ('{"eos_token_id": "2"}', "eos_token_id holds '2', which is no token's number"),
        ('{"eos_token_id": [1, 2.5]}', "holds 2.5"),
        ('{"eos_token_id": true}', "holds True"),
        ('\ufeff{"eos_token_id": 2}', "BOM"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_a_damaged_list_is_said(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"generation_config\.json: ") as caught:
        capture(saved(tmp_path / "tiny", text=content))
    assert message in str(caught.value)
