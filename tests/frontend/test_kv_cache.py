"""Sliding windows: each layer keeps its window, and the logits stay those of transformers however the text is cut."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from dipc.api import Program, capture, compile, load, save
from dipc.backends.eager import EagerSession
from dipc.errors import VerificationFailed
from dipc.frontend.kv_cache import window_of
from dipc.ir.verify import verify_structure
from kit.runs import relative
from kit.tiny_models import SIZES, random_ids, tiny_model

WINDOW = 8
SLIDING: dict[str, tuple[dict[str, Any], str]] = {
    # Options, and each layer: "w" with a window, "f" with everything.
    "mistral": ({}, "ww"),
    "phi3": ({}, "ww"),
    "starcoder2": ({}, "ww"),
    "gemma2": ({"head_dim": 8}, "wf"),
    "gemma3_text": ({"head_dim": 8, "num_hidden_layers": 6}, "wwwwwf"),
    "cohere2": ({"num_hidden_layers": 4}, "wwwf"),
    "qwen2": ({"use_sliding_window": True, "max_window_layers": 1}, "fw"),
}
TOLERANCE = 2e-5


def kept(program: Program) -> str:
    """For each layer "w" or "f", by its port."""
    return "".join("f" if p.window is None else "w" for p in program.inputs if p.name.endswith("_key"))


@pytest.mark.parametrize("family", SLIDING)
def test_a_window_is_kept_and_the_logits_are_those_of_transformers(family: str) -> None:
    options, layers = SLIDING[family]
    model, ids = tiny_model(family, sliding_window=WINDOW, **options), random_ids(40)
    program = capture(model)
    assert kept(program) == layers
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
        # What transformers itself keeps, step by step, says the same.
        cache = model(ids[None, :20], use_cache=True).past_key_values
        stepped = torch.cat([model(t[None], past_key_values=cache).logits[0] for t in ids[20:].split(1)])
    assert relative(stepped, expected[20:]) <= TOLERANCE
    for pieces in ([ids], [ids[:20], *ids[20:].split(1)], ids.split(1), ids.split(7), [ids[:3], ids[3:30], ids[30:]]):
        session = EagerSession(program)
        assert relative(torch.cat([session.step(p).logits for p in pieces]), expected) <= TOLERANCE
    session = EagerSession(program)
    session.step(ids[:30])
    session.step(ids[30:31])
    for port in program.carried:
        positions = session.state(port.name).shape[2]
        assert positions == (31 if port.window is None else WINDOW)


@cache
def gemma3() -> tuple[Any, Program]:
    """A model whose layers slide but every second, and its program."""
    model = tiny_model(
        "gemma3_text", head_dim=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    )
    return model, capture(model)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=12), st.data())
def test_any_pieces_and_steps_back_give_the_logits_of_the_whole(sizes: list[int], data: st.DataObject) -> None:
    model, program = gemma3()
    ids = random_ids(60)
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
    session = EagerSession(program)
    for size in sizes:
        start = session.position
        if start + size > 60:
            break
        assert relative(session.step(ids[start : start + size]).logits, expected[start : start + size]) <= TOLERANCE
        back = data.draw(st.integers(0, size), label="tokens to take back")
        before = session.position
        if session.rewind(before - back):
            assert session.position == before - back
        else:
            # Only what may have left the window is gone, and then nothing was forgotten.
            assert session.position == before > WINDOW - 1
            assert back > WINDOW - 1


def test_the_tokens_of_the_last_call_can_be_taken_back() -> None:
    session, ids = EagerSession(gemma3()[1]), random_ids(40)
    session.step(ids[:30])
    after = session.step(ids[30:35]).logits
    assert session.rewind(30)
    assert relative(session.step(ids[30:35]).logits, after) <= TOLERANCE
    assert not session.rewind(10) and session.position == 35
    session.new_sequence()
    assert relative(session.step(ids[:35]).logits[30:], after) <= TOLERANCE


def test_a_saved_program_keeps_its_windows(tmp_path: Path) -> None:
    save(gemma3()[1], tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.inputs == gemma3()[1].inputs
    ids = random_ids(40)
    runs = [EagerSession(p) for p in (loaded, gemma3()[1])]
    got, want = (torch.cat([run.step(p).logits for p in ids.split(11)]) for run in runs)
    assert torch.equal(got, want)


def test_a_method_keeps_the_windows() -> None:
    program = compile(gemma3()[1], "dip{density=1}").program
    assert kept(program) == "wf"
    ids, session = random_ids(40), EagerSession(program)
    with torch.no_grad():
        expected = gemma3()[0](ids[None]).logits[0].float()
    assert relative(torch.cat([session.step(p).logits for p in ids.split(9)]), expected) <= TOLERANCE


@pytest.mark.parametrize("what", ["masks_by_window", "verify_structure"])
def test_what_cannot_be_traced_with_a_window_keeps_everything(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A model that does not mask by its window, and one whose masks do not fit a second length."""

    def check(program: Program) -> None:
        verify_structure(program)
        if "w" in kept(program):
            raise VerificationFailed("no second length")

    monkeypatch.setattr("dipc.frontend.kv_cache.masks_by_window", lambda _: what != "masks_by_window")
    if what == "verify_structure":
        monkeypatch.setattr("dipc.frontend.tracer.verify_structure", check)
    model, ids = tiny_model("mistral", sliding_window=WINDOW), random_ids(40)
    program = capture(model)
    assert kept(program) == "ff"
    with torch.no_grad():
        expected = model(ids[None]).logits[0].float()
    session = EagerSession(program)
    assert relative(torch.cat([session.step(p).logits for p in ids.split(7)]), expected) <= TOLERANCE
    assert session.state("past_0_key").shape[2] == 40 and session.rewind(3)


@pytest.mark.parametrize(
    ("family", "options", "window"),
    [
        ("mistral", {"sliding_window": 8}, 8),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 64}, None),  # the context
        ("mistral", {"sliding_window": 4096}, None),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}, None),
        ("llama4_text", {"attention_chunk_size": 8}, None),  # masks by positions: keeps all
        ("llama", {}, None),
    ],
)
def test_which_window_a_config_has(family: str, options: dict[str, Any], window: int | None) -> None:
    assert window_of(CONFIG_MAPPING[family](**{**SIZES, **options})) == window
