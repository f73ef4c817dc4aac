"""The harness's tasks on local files: their prompts, the forms of the files, and what is said of damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from dipc.api import run_tasks
from dipc.backends.eager import EagerSession
from dipc.errors import BadFile
from dipc.evaluation.tasks import harness
from dipc.evaluation.tasks.local import LocalData, mmlu_rows
from dipc.evaluation.tasks.model import SessionLM
from kit.paths import SHARED
from kit.task_data import hellaswag_json, program, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def test_prompts_are_the_harness_s(folder: Path) -> None:
    loaded = harness.load(harness.task_manager(("mmlu_anatomy",)), "mmlu_anatomy", LocalData(folder))
    harness.run(SessionLM(EagerSession(program())), "mmlu_anatomy", loaded, fewshot=2, limit=1, seed=0)
    instances = loaded["tasks"]["mmlu_anatomy"].instances
    assert instances[0].args[0] == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What is 7 + 7?\nA. 14\nB. 15\nC. 16\nD. 17\nAnswer: A\n\n"
        "What is 8 + 8?\nA. 16\nB. 17\nC. 18\nD. 19\nAnswer: A\n\n"
        "What is 7 + 7?\nA. 14\nB. 15\nC. 16\nD. 17\nAnswer:"
    )
    assert [item.args[1] for item in instances] == [" A", " B", " C", " D"]
    loaded = harness.load(harness.task_manager(("hellaswag",)), "hellaswag", LocalData(folder))
    harness.run(SessionLM(EagerSession(program())), "hellaswag", loaded, fewshot=None, limit=None, seed=0)
    instances = loaded["tasks"]["hellaswag"].instances
    assert instances[0].args == ("Cooking: A man cuts an onion. He", " flies away.")
    assert instances[4].args[0] == "Health: How to sleep well. Go to bed early."
    assert instances[-1].args == ("Sports: Boys play ball in the park. The tallest boy", " kicks the ball.")


def test_the_two_forms_of_each_data_set_are_the_same(folder: Path, tmp_path: Path) -> None:
    with_header = LocalData(folder).splits("cais/mmlu", "anatomy")["test"]
    lines = (folder / "mmlu/test/anatomy_test.csv").read_text().splitlines()[1:]
    letters = "\n".join(line.rsplit(",", 1)[0] + ",A" for line in lines)
    assert list(mmlu_rows(Path("x"), letters)) == with_header
    (tmp_path / "hellaswag_val.jsonl").write_text(hellaswag_json())
    objects = LocalData(tmp_path).splits("Rowan/hellaswag", None)
    assert objects == LocalData(folder).splits("Rowan/hellaswag", None)


def test_the_digest_is_of_what_was_read(folder: Path, tmp_path: Path) -> None:
    data = LocalData(folder)
    before = data.digest
    data.splits("cais/mmlu", "anatomy")
    after = data.digest
    other = LocalData(write_folder(tmp_path, {"anatomy": 4}))
    other.splits("cais/mmlu", "anatomy")
    assert len({before, after, other.digest}) == 3


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mmlu/test/anatomy_test.csv", None, "anatomy_test.csv: cannot be read: No such file"),
        ("mmlu/test/anatomy_test.csv", "", "there is no question in it"),
        ("mmlu/dev/anatomy_dev.csv", "Why?,a,b,c,d,A\nWhy?,a,b,c\n", r"anatomy_dev.csv:2: 4 columns"),
        ("mmlu/dev/anatomy_dev.csv", "Why?,a,b,c,d,E\n", r"anatomy_dev.csv:1: the answer is 'E'; .* A, B, C, D"),
        ("mmlu/dev/anatomy_dev.csv", '"Why?,a,b,c,d,A\n', "no CSV"),
        ("mmlu/dev/anatomy_dev.csv", b"\xff\xfe", "not UTF-8"),
        ("hellaswag/hellaswag_val_full.txt.bz2", b"no bz2", "cannot be read: Invalid data stream"),
        ("hellaswag/hellaswag_val_full.txt.bz2", None, "there is no hellaswag_val"),
        ("hellaswag/hellaswag_val.jsonl", "{}\n", "hellaswag_val.jsonl:1: no activity_label"),
        ("hellaswag/hellaswag_val.jsonl", "x\n", "hellaswag_val.jsonl:1: not valid JSON"),
        ("hellaswag/hellaswag_val.jsonl", hellaswag_json().replace('"label": 0', '"label": 7'), "label from 0 to 3"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str | bytes | None, message: str) -> None:
    path = write_folder(tmp_path) / file
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    task = "mmlu_anatomy" if file.startswith("mmlu") else "hellaswag"
    with pytest.raises(BadFile, match=message) as caught:
        run_tasks(program(), [task], data=tmp_path)
    assert str(caught.value).startswith(f"{task}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b\n1\nx\ny\nz\n", "5 lines"),
        ("no activity\n1\nw\nx\ny\nz\n", '.txt:1: no "activity: context"'),
        ("a: b\n4\nw\nx\ny\nz\n", ".txt:2: the answer is '4'"),
    ],
)
def test_a_damaged_text_file_of_hellaswag_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hellaswag_val.txt").write_text(text)
    with pytest.raises(BadFile) as caught:
        LocalData(tmp_path).splits("Rowan/hellaswag", None)
    assert message in str(caught.value)


@pytest.mark.skipif(not (SHARED / "data/mmlu").is_dir(), reason="the data sets are not here")
def test_the_whole_data_sets_are_read() -> None:
    data = LocalData(SHARED / "data")
    subjects = [file.name.removesuffix("_test.csv") for file in sorted((SHARED / "data/mmlu/test").iterdir())]
    splits = [data.splits("cais/mmlu", subject) for subject in subjects]
    assert (len(splits), sum(len(s["test"]) for s in splits), {len(s["dev"]) for s in splits}) == (57, 14042, {5})
    rows = data.splits("Rowan/hellaswag", None)["validation"]
    assert len(rows) == 10042
    # The harness capitalises the begun sentence and makes the rest of it small, which changes nothing else of it.
    begun = [row["ctx_b"] for row in rows if row["ctx_b"]]
    assert len(begun) == 3243
    assert all(text == text.lower() for text in begun)
