"""Strict reading of a YAML file: every problem is found, and each one names its line and its key.

The file is only composed into nodes, never constructed into objects, so no tag in it is ever acted on.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dipc.errors import UsageError
from dipc.input_file import read_input

MOST_BYTES = 2**20
"""Of a file: no device has so much to say, and YAML is read slowly."""
MOST_BRACKETS = 1000
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")
}


@dataclass(frozen=True)
class Entry:
    """One value of the file: its dotted key ("" for the whole file), its line (from 1), and its YAML node."""

    key: str
    line: int
    node: Any  # a ruamel.yaml Node; the import is left to `compose`, which keeps start-up quick


@dataclass
class Reader:
    """Reads the values of one file and collects what is wrong with it; `path` is printed as the user gave it."""

    path: str
    _found: list[tuple[int, str]] = field(default_factory=list)
    _doubts: list[tuple[int, str]] = field(default_factory=list)
    _lines: dict[str, int] = field(default_factory=dict)

    def report(self, line: int, key: str, what: str) -> None:
        """Note one problem: `what` is wrong with `key`, and what to write instead."""
        self._found.append((line, self._text(line, key, what)))

    def doubt(self, key: str, what: str) -> None:
        """Note one thing that can hardly be meant, at the line of `key`: the file can be used all the same."""
        line = self._lines.get(f"{key}.value") or self._lines.get(key, 1)
        self._doubts.append((line, self._text(line, key, what)))

    def problems(self) -> list[str]:
        """One line for each problem, in the order of the file."""
        return _in_order(self._found)

    def doubts(self) -> list[str]:
        """One line for each doubt, in the order of the file."""
        return _in_order(self._doubts)

    def _text(self, line: int, key: str, what: str) -> str:
        return f"{self.path}:{line}: {key}: {what}" if key else f"{self.path}:{line}: {what}"

    def compose(self) -> Entry | None:
        """The whole file, or None where it cannot be read as YAML (which is then reported).

        Raises UsageError if there is no such file, BadFile if it cannot be read at all.
        """
        text = self._decode()
        if text is None:
            return None
        if text.count("[") + text.count("{") > MOST_BRACKETS:  # to find that out by reading takes minutes
            self.report(1, "", "not valid YAML, or nested too deeply")
            return None
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            node = YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            what = " ".join(f"{error.context or ''} {error.problem or ''}".split())
            self.report(line, "", f"not valid YAML: {what}")
            return None
        except ReaderError as error:
            self.report(text[: error.position].count("\n") + 1, "", "not valid YAML: a control character")
            return None
        except (YAMLError, RecursionError):
            self.report(1, "", "not valid YAML, or nested too deeply")
            return None
        if node is None:
            self.report(1, "", "the file is empty")
            return None
        return Entry("", node.start_mark.line + 1, node)

    def mapping(self, entry: Entry, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Entry]:
        """The values, by key, of a mapping with the keys `required`, perhaps those `optional`, and no others."""
        allowed = [*required, *optional]
        if not self._is(entry, "map"):
            self.report(entry.line, entry.key, f"must be a mapping with {_words(required)}")
            return {}
        found: dict[str, Entry] = {}
        meant: set[str] = set()  # a misspelt key is one problem, not also a missing one
        for key_node, value_node in entry.node.value:
            name, line = _key_name(key_node.value), key_node.start_mark.line + 1
            key = f"{entry.key}.{name}" if entry.key else name
            if name in found:
                self.report(line, key, f"duplicate key, first given on line {found[name].line}")
            elif name not in allowed:
                close = difflib.get_close_matches(name, allowed, n=1)
                meant.update(close)
                guess = f'did you mean "{close[0]}"?' if close else f"known here: {_words(allowed)}"
                self.report(line, key, f"unknown key; {guess}")
            else:
                found[name] = Entry(key, line, value_node)
                self._lines[key] = line
        for name in required:
            if name not in found and name not in meant:
                key = f"{entry.key}.{name}" if entry.key else name
                self.report(entry.line, key, f"missing; {entry.key or 'the file'} needs {_words(required)}")
        return found

    def is_list(self, entry: Entry) -> bool:
        """Return whether the value is a list."""
        return self._is(entry, "seq")

    def items(self, entry: Entry) -> list[Entry]:
        """The values of a list (the caller has asked `is_list`), keyed `key[0]`, `key[1]`, ..."""
        return [
            Entry(f"{entry.key}[{index}]", node.start_mark.line + 1, node)
            for index, node in enumerate(entry.node.value)
        ]

    def text(self, entry: Entry | None) -> str | None:
        """A value as it is written, quotes removed: also a number, so that its parser can say what is missing."""
        if entry is None:
            return None
        if self._is(entry, "map") or self._is(entry, "seq"):
            self.report(entry.line, entry.key, "must be a single value")
            return None
        if entry.node.tag not in _PLAIN_TAGS:
            self.report(entry.line, entry.key, f'the tag "{entry.node.tag}" is not allowed; write a plain value')
            return None
        value = " ".join(str(entry.node.value).split())
        if not value or entry.node.tag.endswith(":null"):
            self.report(entry.line, entry.key, "is empty")
            return None
        return value

    def _is(self, entry: Entry, kind: str) -> bool:
        return bool(entry.node.tag == f"tag:yaml.org,2002:{kind}" and isinstance(entry.node.value, list))

    def _decode(self) -> str | None:
        try:
            data = read_input(self.path, MOST_BYTES)
        except FileNotFoundError:
            raise UsageError(f"{self.path}: no such file") from None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.report(data[: error.start].count(b"\n") + 1, "", "not UTF-8 text; save the file as UTF-8")
            return None


def _in_order(found: list[tuple[int, str]]) -> list[str]:
    return [text for _, text in sorted(found, key=lambda item: item[0])]


def _key_name(value: object) -> str:
    """A key as one line of text, whatever the file holds there."""
    return " ".join(value.split()) if isinstance(value, str) else "(a list or mapping as a key)"


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
