"""Text to measure on: how a file is read, and how a text becomes tokens and windows of them."""

from dipc.text.reading import Text, as_text, check_characters, decode_text, normalized, read_text, sample_text
from dipc.text.tokens import (
    Tokenized,
    Tokens,
    Window,
    check_vocabulary,
    encode,
    token_ids,
    tokenizer_of,
    tokens_of,
    windows,
)

__all__ = [
    "Text",
    "Tokenized",
    "Tokens",
    "Window",
    "as_text",
    "check_characters",
    "check_vocabulary",
    "decode_text",
    "encode",
    "normalized",
    "read_text",
    "sample_text",
    "token_ids",
    "tokenizer_of",
    "tokens_of",
    "windows",
]
