"""Tasks of the LM Evaluation Harness: what a session answers beside the harness's own model, and local files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lm_eval", reason="needs the extra eval")

from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from dipc.api import Program, export, run_tasks, to_dict
from dipc.backends._session import Step
from dipc.backends.eager import EagerSession
from dipc.backends.onnx.session import OnnxSession
from dipc.errors import DipcError, MissingDependency, UsageError
from dipc.evaluation.tasks import harness, run
from dipc.evaluation.tasks.local import LocalData
from dipc.evaluation.tasks.model import SessionLM
from kit.task_data import CONTEXT, HELLASWAG, model, program, questions, request, some_tasks, tokenizer, write_folder

Scores = list[tuple[float, bool]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def hugging_face(*, starts: bool = False) -> Any:
    return HFLM(pretrained=model(), tokenizer=tokenizer(starts=starts), batch_size=1, max_length=CONTEXT)


def same(found: Scores, expected: Scores) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-4)


@pytest.mark.parametrize("starts", [False, True])
def test_a_dense_program_answers_as_the_harness_has_it_of_the_model(starts: bool) -> None:
    dense = program().replace(tokenizer=tokenizer(starts=starts))
    same(
        SessionLM(EagerSession(dense)).loglikelihood(questions()),
        hugging_face(starts=starts).loglikelihood(questions()),
    )


@pytest.mark.parametrize("starts", [False, True])
def test_rolling_and_generation_are_those_of_the_harness_s_model(starts: bool) -> None:
    ours = SessionLM(EagerSession(program().replace(tokenizer=tokenizer(starts=starts))))
    theirs = hugging_face(starts=starts)
    texts = [request("loglikelihood_rolling", text) for text in ("A short one", "One longer than the context. " * 20)]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)
    free = [request("generate_until", "The sky", {"until": ["\n"], "max_gen_toks": 12})]
    (text,) = theirs.generate_until(free)
    assert len(text) > 4
    stopped = [request("generate_until", "The sky " * 60, {"until": [text[3:5]], "max_gen_toks": 12}), *free]
    stopped += [request("generate_until", "The sky", {"until": text[3:5], "max_gen_toks": 12})]
    assert ours.generate_until(stopped) == theirs.generate_until(stopped)
    assert ours.generate_until(stopped)[-1] == text[:3]


def test_a_task_that_does_not_fit_the_model_is_refused() -> None:
    ours = SessionLM(EagerSession(program()))
    with pytest.raises(UsageError, match=f"asks for {CONTEXT} new tokens"):
        ours.generate_until([request("generate_until", "The", {"max_gen_toks": CONTEXT})])
    with pytest.raises(UsageError, match="samples its answers"):
        ours.generate_until([request("generate_until", "The", {"do_sample": True, "temperature": 1.0})])
    with pytest.raises(UsageError, match="cannot be scored"):
        ours.loglikelihood([request("loglikelihood", "The", " sky" * 2 * CONTEXT)])


class Whole:
    """A session that can be fed, and not rewound; it counts."""

    def __init__(self, of: Program) -> None:
        self.session = EagerSession(of)
        self.identity, self.calls, self.tokens = self.session.identity, 0, 0

    @property
    def position(self) -> int:
        return self.session.position

    def reset(self) -> None:
        self.session.reset()

    def new_sequence(self) -> None:
        self.session.new_sequence()

    def state(self, name: str) -> Tensor:
        return self.session.state(name)

    def step(self, ids: Sequence[int] | Tensor, *, dense: bool = False) -> Step:
        self.calls, self.tokens = self.calls + 1, self.tokens + len(ids)
        return self.session.step(ids, dense=dense)


class Counted(Whole):
    """One that can be rewound."""

    def rewind(self, position: int) -> bool:
        return self.session.rewind(position)


def by_hand(of: Program, requests: Sequence[Any]) -> Scores:
    """A forward pass for each input, in order, and all of each."""
    session, encoder, found = EagerSession(of), tokenizer(), []
    before: tuple[list[int], int] | None = None
    logits_TV = torch.empty(0)
    for item in requests:
        context, text = item.args
        ids = encoder(context + text)["input_ids"]
        head = len(encoder(context)["input_ids"])
        fed = ids[:-1]
        if (fed, head) != before:
            session.new_sequence()
            steps = [session.step(fed[:head], dense=True)]
            steps += [session.step(fed[head:])] if fed[head:] else []
            logits_TV, before = torch.cat([step.logits for step in steps]), (fed, head)
        answer = torch.tensor(ids[head:])
        rows = logits_TV[head - 1 :].log_softmax(-1)
        greedy = bool((rows.argmax(-1) == answer).all())
        found.append((float(rows[torch.arange(len(answer)), answer].sum()), greedy))
    return found


ASKED = [
    *(("The sky is", answer) for answer in (" A", " B", " C", " D")),
    *(("A man cuts an onion. He", text) for text in (" puts it in a pan.", " sings aloud", " sings alone")),
    ("A man cuts an apple. He", " puts it in a pan."),
]


@pytest.mark.parametrize(
    "passes", ["dip{density=0.5}", "dip{density=0.5 scope=decode}", "dip-ca{density=0.5 gamma=0.2}"]
)
def test_a_sparse_program_answers_as_by_one_pass_for_each_input(passes: str) -> None:
    sparse, asked = program(passes), [request("loglikelihood", *pair) for pair in ASKED]
    expected = by_hand(sparse, asked)
    same(SessionLM(EagerSession(sparse)).loglikelihood(asked), expected)
    dense = by_hand(program(), asked)
    moved = [abs(a - b) > 1e-3 for (a, _), (b, _) in zip(expected, dense, strict=True)]
    # Where contexts are dense, so is an answer of one token.
    assert moved == [*([("decode" not in passes)] * 4), *([True] * 4)]


def test_what_texts_have_in_common_is_run_once() -> None:
    asked = [request("loglikelihood", *pair) for pair in ASKED]
    whole, counted = Whole(program("dip{density=0.5}")), Counted(program("dip{density=0.5}"))
    same(SessionLM(counted).loglikelihood(asked), SessionLM(whole).loglikelihood(asked))
    # Choices that differ in their last token are one pass; the others each begin where they part from the text before.
    assert whole.calls == counted.calls == 4
    assert counted.tokens < 0.75 * whole.tokens


def test_a_weight_cache_starts_cold_with_each_task_and_stays_warm_within() -> None:
    sparse = program("dip-ca{density=0.5 gamma=0.2}")
    lm = SessionLM(EagerSession(sparse))
    first, second = questions("first"), questions("second")
    both = lm.loglikelihood([*first, *second])
    assert both[: len(first)] == both[len(first) :] == lm.loglikelihood(first)
    backwards = lm.loglikelihood(first[::-1])[::-1]
    assert backwards != both[: len(first)]


def test_a_whole_task_scores_as_the_harness_has_it_of_the_model(folder: Path) -> None:
    found = run_tasks(program(), ["hellaswag", "mmlu_anatomy"], data=folder)
    for name in ("hellaswag", "mmlu_anatomy"):
        loaded = harness.load(harness.task_manager((name,)), name, LocalData(folder))
        harness.run(SessionLM(EagerSession(program())), name, loaded, fewshot=None, limit=None, seed=0)
        expected = evaluate(hugging_face(), loaded, bootstrap_iters=0)["results"][name]
        assert found.score(name).value == expected["acc,none"]
    assert found.score("hellaswag", "acc_norm").count == len(HELLASWAG)
    assert (found.score("mmlu_anatomy").fewshot, found.score("mmlu_anatomy").count) == (5, 3)


def test_onnx_runtime_answers_as_torch_does(folder: Path, tmp_path: Path) -> None:
    sparse = program("dip{density=0.5}", layers=1)
    export(sparse, "onnx", tmp_path / "onnx")
    eager = run_tasks(sparse, ["hellaswag"], data=folder)
    found = run_tasks(sparse, ["hellaswag"], data=folder, backend="onnx", exported=tmp_path / "onnx")
    assert found.scores == eager.scores
    assert found.backend.startswith("onnx-")
    alone = OnnxSession(tmp_path / "onnx", tokenizer=tokenizer())
    assert run_tasks(alone, ["hellaswag"], data=folder).scores == eager.scores
    lm = SessionLM(EagerSession(sparse))
    same(SessionLM(alone).loglikelihood(questions()), lm.loglikelihood(questions()))


def test_a_sparse_program_s_dense_one_stands_beside_it(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = run_tasks(
        program("dip{density=0.5}"), ["hellaswag"], data=folder, dense=True, progress=lambda *at: seen.append(at)
    )
    dense = run_tasks(program(), ["hellaswag"], data=folder, dense=True)
    assert [score.dense for score in found.scores] == [score.value for score in dense.scores]
    assert [score.dense for score in dense.scores] == [None, None]
    assert seen == [(done, 24) for done in range(1, 25)]


def test_a_group_is_the_mean_over_its_questions(tmp_path: Path) -> None:
    manager = harness.task_manager(("mmlu",))
    subjects = {
        name.removeprefix("mmlu_"): 1
        for name in manager.all_subtasks
        if name in manager.task_index["mmlu_stem_tasks"].tags
    }
    assert len(subjects) == 19
    subjects["abstract_algebra"] = 4
    data = write_folder(tmp_path, subjects)
    found = run_tasks(program(), ["mmlu_stem"], data=data)
    group = found.scores[0]
    members = found.scores[1:]
    assert (group.task, group.members, group.count, group.fewshot) == ("mmlu_stem", 19, 22, 5)
    assert {(score.group, score.fewshot) for score in members} == {("mmlu_stem", 5)}
    assert group.value == pytest.approx(sum(s.value * s.count for s in members) / 22)
    first = found.score("mmlu_abstract_algebra")
    assert first.stderr == pytest.approx((first.value * (1 - first.value) / 3) ** 0.5)


def test_a_failed_task_leaves_the_others_scores(folder: Path) -> None:
    found = run_tasks(program(), ["arc_easy", "mmlu_anatomy", "mmlu_virology"], data=folder, limit=1)
    assert {score.task for score in found.scores} == {"mmlu_anatomy"}
    assert list(found.failures) == ["arc_easy", "mmlu_virology"]
    assert "allenai/ai2_arc" in str(found.failures["arc_easy"])
    document = to_dict(found)
    assert document["failures"].keys() == found.failures.keys()
    assert document["data"]["digest"] == found.data_digest


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        (["hellasswag"], {}, "no task named 'hellasswag'; did you mean 'hellaswag'"),
        ([], {}, "name the tasks"),
        (["mmlu_anatomy"], {"fewshot": 6}, "mmlu_anatomy: .*exceeds the 5"),
        (["mmlu_anatomy"], {"limit": 0}, "limit is 0"),
        (["hellaswag"], {"fewshot": 1}, "hellaswag: its 1 examples come from the split train"),
        (["arc_easy"], {"data": None}, "arc_easy: its data are on the Hugging Face hub, which cannot be reached"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tasks: list[str],
    options: dict[str, Any],
    message: str,
) -> None:
    class NoNetwork:
        def head(self, *_: Any, **__: Any) -> None:
            raise OSError("no route")

    monkeypatch.setattr(harness, "get_session", NoNetwork)
    monkeypatch.setattr("dipc.evaluation.tasks.harness._FOLDERS", ("hellaswag", "mmlu", "arc"))
    if tasks == ["hellasswag"]:
        monkeypatch.setattr(harness, "TaskManager", some_tasks)
    start = time.monotonic()
    with pytest.raises(UsageError, match=message) as caught:
        run_tasks(program(), tasks, **{"data": folder, **options})
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20


def test_the_harness_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r'pip install "dipc\[eval\]"'):
        run_tasks(program(), ["hellaswag"])


def test_code_from_the_hub_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Task(ConfigurableTask):  # type: ignore[misc]
        def __init__(self, config: dict[str, Any]) -> None:
            metric = {"metric": "somebody/metric", "aggregation": "mean", "higher_is_better": True}
            super().__init__(config={**config, "metric_list": [metric]})

    monkeypatch.setattr(harness, "ConfigurableTask", Task)
    with pytest.raises(DipcError, match="somebody/metric is code from the hub"):
        run_tasks(program(), ["hellaswag"], data=folder)
