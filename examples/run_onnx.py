"""Runs an exported model where dipc and torch are not: with onnxruntime, numpy and tokenizers alone.

Usage: python run_onnx.py FOLDER [--prompt TEXT] [--max-new-tokens N] [--library PATH]

FOLDER is what `dipc export` wrote: model.onnx and its tokenizer. Without a library the file runs by itself; with dipc's
(`python -c "import dipc; print(dipc.onnx_library_path())"`, a file that can be copied here) it runs on the kernels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Model:
    """A running model: what it carries from call to call is written in its metadata."""

    def __init__(self, file: Path, library: Path | None) -> None:
        options = onnxruntime.SessionOptions()
        if library is not None:
            options.register_custom_ops_library(str(library))
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.carried = json.loads(about["dipc.carried"])
        self.ends = set(json.loads(about.get("dipc.eos_ids", "[]")))
        self.inputs = {port.name for port in self.session.get_inputs()}
        self.values = {c["input"]: np.full(shape(c), c["fill"], c["dtype"]) for c in self.carried}
        self.position = 0

    def step(self, ids: list[int], dense: bool) -> Any:
        """Feed tokens; the logits after the last one."""
        given = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": np.arange(self.position, self.position + len(ids), dtype=np.int64)[None],
            "dense": np.full((1, len(ids)), dense),
        }
        given = {name: value for name, value in given.items() if name in self.inputs}
        names = ["logits", *(c["output"] for c in self.carried)]
        logits, *values = self.session.run(names, given | self.values)
        self.values = dict(zip(self.values, values, strict=True))
        self.position += len(ids)
        return logits[0, -1]


def shape(carried: dict[str, Any]) -> list[int]:
    """The shape before the first call: no past position yet."""
    return [0 if extent == "past" else extent for extent in carried["shape"]]


def end_token(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The token at which a text ends for the tokenizer; the model may have more."""
    token = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    found: int | None = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token or "")
    return found


def main() -> None:
    """Continue a prompt with the likeliest token, again and again. The prompt is dense where the model allows it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default="The city council")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--library", type=Path)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    model = Model(args.folder / "model.onnx", args.library)
    ends = model.ends | {end_token(args.folder, tokenizer)}
    new: list[int] = []
    logits = model.step(tokenizer.encode(args.prompt).ids, dense=True)
    while len(new) < args.max_new_tokens and (token := int(logits.argmax())) not in ends:
        new.append(token)
        logits = model.step([token], dense=False)
    print(tokenizer.decode(new, skip_special_tokens=False))


if __name__ == "__main__":
    main()
