"""Damage to a good file's bytes, and to the values of the document in it: what disks, editors and other versions do."""

from __future__ import annotations

import json
import random
import struct
from typing import Any, Literal

import numpy as np
import pytest

Form = Literal["json", "yaml", "tensors", "onnx", "code"]
"""What a file holds, where values can be put in its document."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, insert, double and swap bytes, in up to three places."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at, size = chance.randrange(len(made) + 1), chance.choice((1, 1, 2, 8, 40, 300))
        part = bytes(made[at : at + size])
        action = chance.randrange(5)
        if action == 0:
            made[at : at + size] = bytes(byte ^ (1 << chance.randrange(8)) for byte in part)
        elif action == 1:
            del made[at : at + size]
        elif action == 2:
            made[at:at] = chance.randbytes(size) if chance.random() < 0.5 else chance.choice(TOKENS)
        elif action == 3:
            made[at:at] = part
        else:
            other = chance.randrange(len(made) + 1)
            made[other : other + size] = part
    return bytes(made)


TOKENS = (
    b"null",
    b"-1",
    b"1e999",
    b"9" * 400,
    b'""',
    b"[]",
    b"{}",
    b"true",
    b"\xff\xfe",
    b"&a [*a]",
    b"!!python/x",
    b",",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, 0.5, -0.0, 1e308, 5e-324),
    *("", "x", "inf", "nan", "-", "é", "\x00", "\ud800", "x" * 5000, "../../etc/passwd", "layers.0.glu"),
    *([], {}, [[]], [None], [0, 0], {"x": 1}, [[[[[[[[[[]]]]]]]]]]),
)


def changed(value: Any, chance: random.Random, deep: bool = False) -> Any:
    """Put another value in some place of a document: of another type, out of range, left out, or a neighbour's."""
    if not isinstance(value, (dict, list)) or not value or (deep and chance.random() < 0.1):
        return chance.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, action = chance.choice(keys), chance.randrange(8)
    made = dict(value) if isinstance(value, dict) else list(value)
    if action == 0:
        del made[key]
    elif action == 1:
        other = chance.choice(VALUES)
        if isinstance(made, dict):
            made[str(other)[:20]] = other
        else:
            made.insert(key, other)
    elif action == 2:
        made[key] = value[chance.choice(keys)]
    else:
        made[key] = changed(value[key], chance, deep=True)
    return made


def changed_document(content: bytes, form: Form, chance: random.Random) -> bytes:
    """Put another value in some place of the document that a file of this form holds."""
    if form == "json":
        return json.dumps(changed(json.loads(content), chance)).encode("utf-8", "surrogatepass")
    if form == "yaml":
        lines = content.splitlines()
        at = chance.randrange(len(lines))
        key, colon, _ = lines[at].partition(b":")
        value = json.dumps(chance.choice(VALUES)).encode()
        action = chance.randrange(4)
        put_in: tuple[list[bytes], ...] = [key + colon + b" " + value], [], [lines[at], lines[at]], [b"  " + lines[at]]
        lines[at : at + 1] = put_in[action]
        return b"\n".join(lines)
    if form == "onnx":
        model = pytest.importorskip("onnx").load_from_string(content)
        held = {prop.key: prop.value for prop in model.metadata_props}
        carried = {**held, "dipc.carried": json.loads(held["dipc.carried"])}
        del model.metadata_props[:]
        for key, value in changed(carried, chance).items():
            text = value if isinstance(value, str) else json.dumps(value)
            model.metadata_props.add(key=key.encode("utf-8", "replace"), value=text.encode("utf-8", "replace"))
        return bytes(model.SerializeToString())
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    about = header.get("__metadata__", {})
    objects = [key for key, text in about.items() if text[:1] in "{["]
    if objects and chance.random() < 0.5:
        key = chance.choice(objects)
        about[key] = json.dumps(changed(json.loads(about[key]), chance))
    else:
        header = changed(header, chance)
    made = json.dumps(header).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        numbers = np.frombuffer(data[: len(data) // 8 * 8], np.uint64).copy()
        numbers[chance.randrange(len(numbers))] = chance.choice((0x7FF8 << 48, 0x7FC000007FC00000, 2**64 - 1))
        data = numbers.tobytes() + data[numbers.nbytes :]
    return struct.pack("<Q", len(made)) + made + data
