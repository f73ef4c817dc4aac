"""Text is read by one set of rules: UTF-8, no byte-order mark, lines that end in a line feed, and nothing else."""

from __future__ import annotations

import codecs
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipc import input_file
from dipc.errors import UsageError
from dipc.text import Text, decode_text, normalized, read_text

STORY = "One fine day,\nnot so long ago,\n\nthe café opened. 猫 \U0001f408\n"
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"))

SAVED = {
    "a mark": codecs.BOM_UTF8 + STORY.encode(),
    "Windows": STORY.replace("\n", "\r\n").encode(),
    "Windows with a mark": codecs.BOM_UTF8 + STORY.replace("\n", "\r\n").encode(),
    "an old Mac": STORY.replace("\n", "\r").encode(),
    "all kinds": STORY.replace("day,\n", "day,\r\n").replace("\n\n", "\n\r\n")[:-1].encode() + b"\r",
}

OTHER_THAN_TEXT = {
    "UTF-16 with a mark": (STORY.encode("utf-16"), "not UTF-8 text but UTF-16; save it as UTF-8"),
    "the other UTF-16": (codecs.BOM_UTF16_BE + STORY.encode("utf-16-be"), "not UTF-8 text but UTF-16;"),
    "UTF-32 with a mark": (STORY.encode("utf-32"), "not UTF-8 text but UTF-32;"),
    "UTF-16 without": (b"plain words".decode().encode("utf-16-le"), "not UTF-8 text but UTF-16 or UTF-32;"),
    "a hole": (bytes(100), "not text but zero bytes"),
    "Latin-1": ("café".encode("latin-1"), r"not UTF-8 text \(byte 3 is 0xe9\); save it as UTF-8"),
    "Latin-1 after a mark": (codecs.BOM_UTF8 + b"caf\xe9", r"not UTF-8 text \(byte 6 is 0xe9\)"),
    "half a pair": ("\ud800".encode("utf-8", "surrogatepass"), r"not UTF-8 text \(byte 0 is 0xed\)"),
    "cut in a character": ("café".encode()[:-1], r"not UTF-8 text \(byte 3 is 0xc3\)"),
}


@pytest.mark.parametrize("content", SAVED.values(), ids=SAVED)
def test_the_same_text_is_read_whoever_saved_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes(STORY.encode())
    (tmp_path / "saved.txt").write_bytes(content)
    plain, saved = read_text(tmp_path / "plain.txt"), read_text(tmp_path / "saved.txt")
    assert saved.text == plain.text == STORY
    assert saved.digest == plain.digest


@pytest.mark.parametrize(("content", "message"), OTHER_THAN_TEXT.values(), ids=OTHER_THAN_TEXT)
def test_what_is_no_text_is_said(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UsageError, match=rf"x\.txt: {message}"):
        read_text(tmp_path / "x.txt")


def test_only_the_mark_in_front_goes() -> None:
    assert decode_text("\ufeff\ufeffa\ufeffb".encode()) == "\ufeffa\ufeffb"
    assert decode_text(b"a zero \0 within stays") == "a zero \0 within stays"
    assert decode_text(b"\xef\xbb\xbf") == decode_text(b"") == ""


@settings(derandomize=True, max_examples=200, deadline=None)
@given(CHARACTERS.filter(lambda text: 4 * text.count("\0") < len(text)))
def test_any_text_is_read_as_it_was_written(text: str) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    for saved in (lines, "\ufeff" + lines, lines.replace("\n", "\r\n"), lines.replace("\n", "\r")):
        assert decode_text(saved.encode()) == lines
    assert normalized(normalized(text)) == normalized(text) == lines


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.one_of(st.binary(), st.text().map(lambda t: t.encode("utf-16", "surrogatepass"))))
def test_bytes_are_text_or_refused(content: bytes) -> None:
    said = ""
    try:
        assert "\r" not in decode_text(content)
    except ValueError as error:
        said = f"{type(error).__name__}: {error}"
    assert not said or said.startswith("ValueError: not ")


def test_places_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read: it is a folder, not a file"):
        read_text(tmp_path)
    monkeypatch.setattr(input_file, "PATIENCE_S", 0.05)
    os.mkfifo(tmp_path / "silent")
    with pytest.raises(UsageError, match="silent: is a pipe that nobody writes to"):
        read_text(tmp_path / "silent")
    with pytest.raises(UsageError, match="the file is empty"):
        read_text(Path(os.devnull))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match=r"loop: cannot be read: "):
        read_text(tmp_path / "loop")
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "link.txt").symlink_to("words.txt")
    assert read_text(tmp_path / "link.txt").text == "words"
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(SAVED["Windows with a mark"],))
    writer.start()
    assert read_text(tmp_path / "pipe").text == STORY
    writer.join()


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\r\n \r\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_text_is_empty(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.txt: the file is empty"):
        read_text(tmp_path / "x.txt")


def test_half_of_a_pair_is_no_character() -> None:
    with pytest.raises(UsageError, match=r"mine: character 2 is no character but half of a surrogate pair \(U\+D83D\)"):
        Text("mine", "ab\ud83dcd")
    assert Text("mine", "ab\U0001f408").digest
