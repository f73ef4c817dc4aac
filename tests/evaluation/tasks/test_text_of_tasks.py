"""Task data are read by the rules of all text, and whatever is in a file, its line is named."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lm_eval", reason="needs the extra eval")

from dipc.api import run_tasks
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile, NotFinite, UsageError
from dipc.evaluation.tasks.local import LocalData, hellaswag_lines, hellaswag_objects, mmlu_rows
from dipc.evaluation.tasks.model import SessionLM
from kit.task_data import HELLASWAG, hellaswag_json, mmlu_question, program, questions, request

FILE = Path("x")
LINES = "".join("\n".join([context, str(answer), *endings]) + "\n" for context, answer, endings in HELLASWAG)
TABLE = '"Why\nnot?",a,b,c,d,B\n' + "".join(",".join([*mmlu_question(i)[:-1], "A"]) + "\n" for i in range(4))
FORMS = {
    "hellaswag_val.jsonl": ("Rowan/hellaswag", None, hellaswag_json()),
    "hellaswag_val_full.txt": ("Rowan/hellaswag", None, LINES),
    "mmlu": ("cais/mmlu", "anatomy", TABLE),
}
SAVED: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: text.encode(),
    "a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "Windows with a mark": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "an old Mac": lambda text: text.replace("\n", "\r").encode(),
}


def write(folder: Path, name: str, content: bytes) -> Path:
    files = [folder / name]
    if name == "mmlu":
        files = [folder / split / f"anatomy_{split}.csv" for split in ("dev", "test")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_the_same_questions_are_asked_whoever_saved_them(name: str, tmp_path: Path) -> None:
    path, subject, text = FORMS[name]
    found = []
    for i, saved in enumerate(SAVED.values()):
        data = LocalData(write(tmp_path / str(i), name, saved(text)))
        found.append((data.splits(path, subject), data.digest))
    assert all(one == found[0] for one in found[1:])


def test_lines_that_end_otherwise_score_the_same(tmp_path: Path) -> None:
    scores = [
        run_tasks(program(), ["hellaswag"], data=write(tmp_path / str(i), "hellaswag_val.txt", SAVED[how](LINES)))
        for i, how in enumerate(("plain", "Windows with a mark"))
    ]
    assert scores[0].scores == scores[1].scores and scores[0].data_digest == scores[1].data_digest


@pytest.mark.parametrize("name", FORMS)
def test_other_encodings_are_said(name: str, tmp_path: Path) -> None:
    path, subject, text = FORMS[name]
    with pytest.raises(BadFile, match="not UTF-8 text but UTF-16; save it as UTF-8"):
        LocalData(write(tmp_path, name, text.encode("utf-16"))).splits(path, subject)


def line(**changes: Any) -> str:
    row = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": list("defg"), "label": 1}
    return json.dumps({k: v for k, v in {**row, **changes}.items() if v is not ...})


WRONG = {
    "no object": ("[]", "must hold a JSON object"),
    "no field": (line(ctx_a=...), "no ctx_a, or not of its type (null)"),
    "another type": (line(ctx_b=5), "no ctx_b, or not of its type (5)"),
    "true for one": (line(label=True), "no label, or not of its type (true)"),
    "a half": (line(label=1.5), "no label, or not of its type (1.5)"),
    "too far": (line(label=4), "four endings and a label from 0 to 3 are wanted"),
    "below": (line(label="-1"), "four endings and a label from 0 to 3"),
    "three endings": (line(endings=list("def")), "four endings"),
    "an ending of numbers": (line(endings=[1, 2, 3, 4]), "four endings"),
    "no list": (line(endings={"a": 1}), "no endings"),
    "twice": ('{"label": 1, "label": 2}', "a key is given twice"),
    "half a character": (line(ctx_a="x\ud800"), "character 1 is no character but half of a surrogate pair"),
    "half a character at the end": (line(endings=["a", "b", "c", "\udfff"]), "half of a surrogate pair"),
    "not a number": (line(label=float("nan")), "NaN is no JSON number"),
    "two on a line": (line() + line(), "not valid JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "a long number": (line(label=...)[:-1] + ', "label": ' + "9" * 5000 + "}", "not valid JSON"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_line_that_is_no_question_is_named(wrong: str, message: str) -> None:
    assert len(list(hellaswag_objects(FILE, f"{line()}\n\n  \n{line()}\n"))) == 2
    with pytest.raises(BadFile) as caught:
        list(hellaswag_objects(FILE, f"{line()}\n\n{wrong}\n"))
    assert str(caught.value).startswith("x:3: ") and message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_separators_within_a_text_end_no_line() -> None:
    text = json.dumps(json.loads(line(ctx_a="one\u2028two\u0085three\x0bfour")), ensure_ascii=False)
    assert [row["ctx_a"] for row in hellaswag_objects(FILE, text)] == ["one\u2028two\u0085three\x0bfour"]
    with pytest.raises(BadFile, match="there is no question in it"):
        list(hellaswag_objects(FILE, "\n \n"))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.sampled_from([hellaswag_objects, hellaswag_lines, mmlu_rows]),
    st.one_of(
        st.text(),
        st.lists(st.sampled_from(["a: b", "1", "x", "", "Why?,a,b,c,d,A", '"', ",", line(), "\x00"])).map("\n".join),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(json.loads(line()))), inner),
        ).map(json.dumps),
    ),
)
def test_anything_is_read_or_named(read: Any, text: str) -> None:
    with contextlib.suppress(BadFile):
        for row in read(FILE, text):
            assert all(isinstance(value, (str, int, list)) for value in row.values())


def answer(model: Any) -> str:
    lm = SessionLM(EagerSession(model))
    (found,) = lm.generate_until([request("generate_until", "The river", {"until": [], "max_gen_toks": 12})])
    return str(found)


def test_an_answer_ends_at_any_end_of_the_model_s() -> None:
    import dataclasses

    base = program()
    whole = answer(base)
    ids = base.tokenizer(whole)["input_ids"]
    new = next(i for i in range(2, len(ids)) if ids[i] not in ids[:i])
    ended = base.replace(info=dataclasses.replace(base.info, eos_ids=(ids[new],)))
    assert answer(ended) == base.tokenizer.decode(ids[: new + 1])  # as the harness's own model, which keeps its text


def test_tasks_on_a_broken_model_are_refused(tmp_path: Path) -> None:
    base = program()
    name = "model.layers.1.mlp.up_proj.weight"
    weights = {n: w * 3e38 if n == name else w for n, w in base.weights.items()}
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.layers.1.mlp.down_proj.weight"] * 3e38
    broken = base.replace(weights=weights)
    with pytest.raises(NotFinite, match=r"hellaswag: tiny: model\.layers\.1\.mlp is the first to compute"):
        run_tasks(broken, ["hellaswag"], data=write(tmp_path, "hellaswag_val.txt", LINES.encode()))
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp is the first"):
        answer(broken)


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    import dataclasses

    base = program()
    small = base.replace(info=dataclasses.replace(base.info, vocab=200))
    with pytest.raises(BadFile, match="the model knows 200 tokens"):
        SessionLM(EagerSession(small)).loglikelihood(questions()[:1])
    with pytest.raises(UsageError, match="no character"):
        SessionLM(EagerSession(base)).loglikelihood([request("loglikelihood", "a\ud800", " b")])
