"""The harness's own tasks on local files: its prompts, few shots and metrics, with the data set of a folder.

FOLDER/mmlu/{dev,test}/SUBJECT_{dev,test}.csv    MMLU: six columns, question, four choices and the answer, a letter A-D
                                                 without a header or a number 0-3 under one
FOLDER/hellaswag/hellaswag_val*.{txt,txt.bz2}    HellaSwag: six lines a question: "activity: context", the answer 0-3,
                                                 four endings
FOLDER/hellaswag/hellaswag_{val,train}*.jsonl    HellaSwag as its authors publish it

They are read as all text is (`dipc.text.reading`). FOLDER may also be the folder of one of the two. Data are held in
memory; nothing is cached on disk.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dipc.documents import read_json
from dipc.errors import BadFile, UsageError
from dipc.input_file import read_input
from dipc.text import check_characters, decode_text

Row = dict[str, Any]
Splits = dict[str, list[Row]]
LETTERS = "ABCD"
_FIELDS: dict[str, Any] = {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list, "label": (int, str)}
HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


class LocalData:
    """A folder of data sets, by the names under which the harness's tasks ask the hub for them.

    Args:
        folder: see the module's docstring.

    Raises:
        BadFile: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BadFile(f"{folder}: there is no such folder of task data")
        self.folder = folder
        self._read: dict[str, str] = {}
        self._known: dict[str, Callable[[str | None], Splits]] = {
            "cais/mmlu": self._mmlu,
            "Rowan/hellaswag": lambda _: self._hellaswag(),
        }

    @property
    def digest(self) -> str:
        """The digest of the texts read so far: the first 16 hex digits of the SHA-256 over theirs."""
        return hashlib.sha256("".join(self._read[name] for name in sorted(self._read)).encode()).hexdigest()[:16]

    def splits(self, path: str, name: str | None) -> Splits:
        """A data set's rows by split, as the hub's data set `path` in its configuration `name` has them.

        Raises:
            UsageError: a data set that no layout of local files is known for.
            BadFile: a file that is absent or malformed.
        """
        if path not in self._known:
            known = ", ".join(sorted(self._known))
            raise UsageError(f"its data set {path} is not read from local files (known: {known}); leave the folder out")
        return self._known[path](name)

    def _mmlu(self, subject: str | None) -> Splits:
        if subject is None:
            raise UsageError("its data set cais/mmlu is read from local files a subject at a time")
        root = self._place("mmlu")
        files = {split: root / split / f"{subject}_{split}.csv" for split in ("dev", "test")}
        return {split: list(mmlu_rows(file, self._text(file))) for split, file in files.items()}

    def _hellaswag(self) -> Splits:
        root, found = self._place("hellaswag"), {}
        for split, stem, patterns in (
            ("validation", "hellaswag_val", ("*.jsonl", "*.txt", "*.txt.bz2")),
            ("train", "hellaswag_train", ("*.jsonl",)),
        ):
            files = sorted(file for pattern in patterns for file in root.glob(stem + pattern))
            if files:
                read = hellaswag_objects if files[0].suffix == ".jsonl" else hellaswag_lines
                found[split] = list(read(files[0], self._text(files[0])))
        if "validation" not in found:
            raise BadFile(f"{root}: there is no hellaswag_val*.jsonl, .txt or .txt.bz2")
        return found

    def _place(self, name: str) -> Path:
        below = self.folder / name
        return below if below.is_dir() else self.folder

    def _text(self, file: Path) -> str:
        try:
            content = read_input(file)
            content = bz2.decompress(content) if file.suffix == ".bz2" else content
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadFile(f"{file}: cannot be read: {reason}") from None
        try:
            text = decode_text(content)
        except ValueError as error:
            raise BadFile(f"{file}: {error}") from None
        self._read[str(file.relative_to(self.folder))] = hashlib.sha256(text.encode()).hexdigest()
        return text


def mmlu_rows(file: Path, text: str) -> Iterator[Row]:
    """Questions with their choices and the number of the right one. BadFile names the file and the line."""
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    answers = {letter: place for place, letter in enumerate(LETTERS)}
    count = 0
    try:
        for row in table:
            if row == HEADER and not count:
                answers = {str(place): place for place in range(len(LETTERS))}
                continue
            if not row:
                continue
            count += 1
            where = f"{file}:{table.line_num}"
            if len(row) != len(HEADER):
                raise BadFile(f"{where}: {len(row)} columns; a question, four choices and an answer are {len(HEADER)}")
            answer = answers.get(row[-1].strip())
            if answer is None:
                raise BadFile(f"{where}: the answer is {row[-1]!r}; it must be one of {', '.join(answers)}")
            yield {"question": row[0], "choices": row[1:-1], "answer": answer}
    except csv.Error as error:
        raise BadFile(f"{file}:{table.line_num}: no CSV: {error}") from None
    if not count:
        raise BadFile(f"{file}: there is no question in it")


def hellaswag_lines(file: Path, text: str) -> Iterator[Row]:
    """Questions of the text file, as the hub's data set has them.

    That file writes the context as one: its last part, which the ending completes and which the harness capitalises, is
    what follows the last full sentence.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or len(lines) % 6:
        raise BadFile(f"{file}: {len(lines)} lines; a question has six")
    for start in range(0, len(lines), 6):
        label, context = lines[start].split(": ", 1) if ": " in lines[start] else ("", "")
        if not label:
            raise BadFile(f'{file}:{start + 1}: no "activity: context"')
        if lines[start + 1].strip() not in {"0", "1", "2", "3"}:
            raise BadFile(f"{file}:{start + 2}: the answer is {lines[start + 1]!r}; it must be 0, 1, 2 or 3")
        whole, rest = _split_context(context)
        endings = lines[start + 2 : start + 6]
        answer = lines[start + 1].strip()
        yield {"activity_label": label, "ctx_a": whole, "ctx_b": rest, "endings": endings, "label": answer}


def _split_context(context: str) -> tuple[str, str]:
    """Its full sentences, and the begun one."""
    found = re.fullmatch(r"(.*[.!?])\s+([^.!?]*[^.!?\s])", context)
    return (found[1], found[2]) if found else (context, "")


def hellaswag_objects(file: Path, text: str) -> Iterator[Row]:
    """Questions of the authors' file, one JSON object a line."""
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            count += 1
            yield _question(read_json(line, f"{file}:{number}"), f"{file}:{number}")
    if not count:
        raise BadFile(f"{file}: there is no question in it")


def _question(row: Row, where: str) -> Row:
    """The fields of a question. BadFile where one is absent or no such thing."""
    for key, kind in _FIELDS.items():
        if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
            raise BadFile(f"{where}: no {key}, or not of its type ({_shown(row.get(key))})")
    endings, label = row["endings"], str(row["label"])
    if len(endings) != 4 or not all(isinstance(text, str) for text in endings) or label not in {"0", "1", "2", "3"}:
        shown = f"{_shown(endings)} and {_shown(row['label'])}"
        raise BadFile(f"{where}: four endings and a label from 0 to 3 are wanted, not {shown}")
    try:
        for text in (row["activity_label"], row["ctx_a"], row["ctx_b"], *endings):
            check_characters(text, where)
    except UsageError as error:
        raise BadFile(str(error)) from None
    return {key: label if key == "label" else row[key] for key in _FIELDS}


def _shown(value: object) -> str:
    return json.dumps(value)[:80]
