r"""The one reader of text that people bring: plain text, tables, lines of JSON and prompts, all by the same rules.

A text is UTF-8. The byte-order mark that some editors put in front is no part of it, and a line ends in `\n`, whether
the file has `\n`, `\r\n` or `\r`. So the same text gives the same figures whoever saved it, and a digest is of the text
that is scored. Other encodings are refused rather than guessed.
"""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path

from dipc.errors import BadFile, UsageError
from dipc.input_file import MOST_BYTES, memory_bytes, read_input

SAMPLE = Path(__file__).parents[1] / "demo" / "sample.txt"
_MARK = "\ufeff"
# UTF-32's little-endian mark begins with UTF-16's.
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Text:
    """Text to measure on: its name, and a digest that says which text a result belongs to.

    Raises:
        UsageError: a character that is none, half of a surrogate pair.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        check_characters(self.text, self.name)

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def decode_text(content: bytes) -> str:
    """Return the text of a file's bytes, by the rules above.

    Raises:
        ValueError: it is no UTF-8; the message says what it is and where.
    """
    kind = next((name for mark, name in _WIDE.items() if content.startswith(mark)), None)
    if kind is None and 4 * content.count(0) >= len(content) > 0:
        kind = "UTF-16 or UTF-32" if content.strip(b"\0") else "text but zero bytes"
    if kind is not None:
        raise ValueError(f"not UTF-8 text but {kind}; save it as UTF-8" if "UTF" in kind else f"not {kind}")
    try:
        return normalized(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(f"not UTF-8 text (byte {error.start} is {byte:#04x}); save it as UTF-8") from None


def normalized(text: str) -> str:
    """Return a text without a byte-order mark in front, its lines ended by a line feed alone."""
    text = text.removeprefix(_MARK)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def check_characters(text: str, where: str) -> None:
    """UsageError for half of a surrogate pair, which JSON can spell but no encoding of text has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where}: character {error.start} is no character but half of a surrogate pair "
            f"(U+{ord(text[error.start]):04X}); the text was not UTF-8, or was cut"
        ) from None


def read_text(path: Path) -> Text:
    """A text file. UsageError if it is absent, empty or something else."""
    try:
        text = decode_text(read_input(path, memory_bytes() or MOST_BYTES))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except BadFile as error:
        raise UsageError(str(error)) from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if not text.strip():
        raise UsageError(f"{path}: the file is empty; perplexity needs text")
    return Text(path.name, text)


def sample_text() -> Text:
    """The text that comes with dipc."""
    return Text("the sample text of dipc", decode_text(SAMPLE.read_bytes()))


def as_text(given: Text | str | None) -> Text | None:
    """Return a text as it is, or a string as a text without a name of its own."""
    return Text("text", given) if isinstance(given, str) else given
