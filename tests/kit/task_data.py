"""A small model with the demo's tokenizer, hand-made task data, and requests as the harness makes them."""

from __future__ import annotations

import bz2
import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval import tasks
from lm_eval.api.instance import Instance
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedModel

from dipc.api import Program, capture, compile
from dipc.frontend.named_models import named_model
from kit.tiny_models import tiny_model

CONTEXT = 96
SUBJECTS = {"anatomy": 3, "astronomy": 2}
HEADER = ("question", "choice0", "choice1", "choice2", "choice3", "answer")
HELLASWAG = [
    ("Cooking: A man cuts an onion. he", 1, ["flies away.", "puts it in a pan.", "sings.", "is a river."]),
    ("Health: How to sleep well. Go to bed early.", 0, ["Get up early.", "Shout.", "Buy a car.", "Run."]),
    ("Sports: Boys play ball in the park. the tallest boy", 3, ["eats.", "sinks.", "melts.", "kicks the ball."]),
]


def tokenizer(*, starts: bool = False) -> Any:
    """The demo's; `starts`: as those that begin every text with a token of their own."""
    found = AutoTokenizer.from_pretrained(named_model("demo"))
    if starts:
        first = found.bos_token
        found.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, found.bos_token_id)]
        )
    return found


@cache
def model(layers: int = 2) -> PreTrainedModel:
    """With weights so large that answers differ."""
    found = tiny_model(
        vocab_size=len(tokenizer()),
        max_position_embeddings=CONTEXT,
        num_hidden_layers=layers,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    assert isinstance(found, PreTrainedModel)
    return found


@cache
def program(passes: str = "outline-glu", layers: int = 2) -> Program:
    """The model compiled."""
    return compile(capture(model(layers), name="tiny").replace(tokenizer=tokenizer()), passes).program


def request(kind: Any, *arguments: Any, task: str = "by hand") -> Instance:
    return Instance(kind, {}, arguments, 0, (task, 0, 1))


def questions(task: str = "by hand") -> list[Instance]:
    """Continuations of one token, of many, after no context, and after more context than fits."""
    long = "The council met in the town hall and spoke of the bridge again. " * 12
    pairs = [
        *(("The sky is", answer) for answer in (" A", " B", " C", " D")),
        *(("A man cuts an onion. He", " " + text) for text in ("puts it in a pan.", "sings aloud", "sings alone")),
        ("", "The river"),
        ("The word ", "of mouth"),
        (long + "Then", " they voted"),
        (long + "Then", " they went home"),
        ("Then", " " + long[:300]),
    ]
    return [request("loglikelihood", *pair, task=task) for pair in pairs]


def mmlu_question(number: int) -> list[str]:
    return [f"What is {number} + {number}?", *(str(2 * number + wrong) for wrong in range(4)), "0"]


def write_folder(folder: Path, subjects: dict[str, int] | None = None) -> Path:
    """MMLU of some subjects, with so many test questions each, and HellaSwag as a compressed text file."""
    for subject, count in (subjects or SUBJECTS).items():
        for split, rows in (("dev", 5), ("test", count)):
            file = folder / "mmlu" / split / f"{subject}_{split}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", newline="") as stream:
                csv.writer(stream).writerows([HEADER, *(mmlu_question(i + len(subject)) for i in range(rows))])
    place = folder / "hellaswag"
    place.mkdir()
    text = "".join("\n".join([context, str(answer), *endings]) + "\n" for context, answer, endings in HELLASWAG)
    (place / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress(text.encode()))
    return folder


def hellaswag_json() -> str:
    """The same as the authors publish it."""
    split = [
        ("A man cuts an onion.", "he"),
        ("How to sleep well. Go to bed early.", ""),
        ("Boys play ball in the park.", "the tallest boy"),
    ]
    rows = [
        {"ind": 1, "activity_label": context.split(":")[0], "ctx_a": a, "ctx_b": b, "endings": endings, "label": label}
        for (context, label, endings), (a, b) in zip(HELLASWAG, split, strict=True)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def some_tasks(**_: Any) -> Any:
    """The harness's list of tasks, without the ten seconds that all of it takes."""
    root = Path(tasks.__file__).parent
    return tasks.TaskManager(include_defaults=False, include_path=[root / "hellaswag", root / "piqa"])
