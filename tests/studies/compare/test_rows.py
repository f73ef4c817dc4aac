"""The rows of a comparison: which there are, and what each is measured to read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import fx

from dipc.api import Program, compile, evaluate
from dipc.backends.eager import EagerSession
from dipc.calibration.file import Calibration
from dipc.errors import UsageError
from dipc.passes.dip import Dip
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.pass_ import PASSES
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.studies.compare.measure import bytes_read
from dipc.studies.engine.dense_session import CachedDenseSession
from dipc.studies.method_rows import choose, known, unaware_form
from dipc.studies.options import items
from kit.byte_text import byte_tokenizer
from kit.tiny_models import outlined, random_ids


@dataclass(frozen=True)
class Broken(SparsityPass):
    """Fails where no method should."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        raise ZeroDivisionError("broken on purpose")


def test_a_name_is_a_row_at_every_density() -> None:
    (entry,) = choose("dip", [0.5])
    assert (entry.label, entry.pipeline(0.25)) == ("dip", "dip{density=0.25}")
    assert entry.applies_at(0.9) and not entry.applies_at(None)


def test_all_has_every_method_once_and_plug_ins_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES.added, "broken", (Broken, "broken.py"))
    names = [entry.name for entry in choose("all", [0.5])]
    methods = {n for n in PASSES.names() if issubclass(PASSES.get(n), SparsityPass)}
    assert methods <= set(names) and "broken" in names
    assert not any("lora" in name for name in names)


def test_the_rows_that_are_trained_are_there_when_asked_for() -> None:
    trained = [entry for entry in choose("all", [0.5], lora=True) if entry.is_trained]
    assert [entry.label for entry in trained] == ["cats + LoRA", "dip + LoRA"]
    assert [entry.label for entry in choose("dip+lora", [0.5])] == ["dip + LoRA"]


def test_the_oracle_keeps_a_share_of_the_glu_where_glu_pruning_cannot_go() -> None:
    entries = choose("glu", [0.7, 0.5])
    at = {d: [(e.label, e.pipeline(d)) for e in entries if e.applies_at(d)] for d in (0.7, 0.5)}
    assert at[0.5] == [("glu (oracle)", "glu{rho_glu=0.5}")]
    assert at[0.7] == [("glu (oracle)", "glu{rho_glu=0.7}"), ("glu", "glu{density=0.7}")]


def test_semi_structured_rows_stand_at_half_only() -> None:
    entries = choose("sparsegpt-2:4", [0.5])
    assert [d for d in (0.6, 0.5, 0.4, None) if entries[0].applies_at(d)] == [0.5]


@pytest.mark.parametrize(
    ("template", "label", "kind"),
    [
        ("int4,dip{density=DENSITY}", "int4,dip", "method"),
        ("dip-ca{density=DENSITY gamma=0.5}", "dip-ca{gamma=0.5}", "method"),
        ("fuse-lora{adapter=ADAPTER},up{density=DENSITY}", "up + LoRA", "lora"),
        ("fuse-lora{adapter=mine},dip{density=DENSITY}", "fuse-lora{adapter=mine},dip", "lora"),
        ("fuse-lora{adapter=ADAPTER},dip{density=DENSITY allocation=split}", "dip, split + LoRA", "lora"),
        ("int8{group=32}", "int8{group=32}", "method"),
        ("dip{density=0.5 layers=0}", "dip{density=0.5 layers=0}", "method"),
    ],
)
def test_a_pipeline_is_a_row(template: str, label: str, kind: str) -> None:
    (entry,) = choose([template], [0.5])
    assert (entry.label, entry.kind) == (label, kind)
    assert entry.applies_at(None) == ("DENSITY" not in template)
    assert "DENSITY" not in entry.pipeline(0.5)


@pytest.mark.parametrize(
    ("item", "label", "at_half"),
    [
        ("dip-ca{gamma=0.5}", "dip-ca{gamma=0.5}", "dip-ca{density=0.5 gamma=0.5}"),
        ("int4,dip", "int4,dip", "int4,dip{density=0.5}"),
        ("dip{}", "dip", "dip{density=0.5}"),
        ("dip{layers=0},dip-ca{layers=1}", None, "dip{density=0.5 layers=0},dip-ca{density=0.5 layers=1}"),
        ('dip{layers="0,1"}', 'dip{layers="0,1"}', 'dip{density=0.5 layers="0,1"}'),
        ("sparsegpt{pattern=2:4}", None, "sparsegpt{density=0.5 pattern=2:4}"),
        ("sparsegpt,dip", "sparsegpt,dip", "sparsegpt,dip{density=0.5}"),
        ("dip{rho_glu=0.4}", "dip{rho_glu=0.4}", None),
        ("dip{density=0.4},dip-ca{layers=1}", None, None),
        ("glu{rho_glu=0.4}", None, None),
        ("outline-glu,int8{group=32}", None, None),
    ],
)
def test_a_pipeline_that_names_no_density_stands_at_each(item: str, label: str | None, at_half: str | None) -> None:
    (entry,) = choose([item], [0.6, 0.5])
    assert entry.name == item and entry.label == (label or item)
    assert [d for d in (0.6, 0.5, None) if entry.applies_at(d)] == ([None] if at_half is None else [0.6, 0.5])
    assert entry.pipeline(0.5) == (item if at_half is None else at_half)


def test_pipelines_in_a_list_are_divided_between_their_braces() -> None:
    rows = choose('dip{layers="0,1"}, dip-ca{gamma=0.5 policy=lru},cats', [0.5])
    assert [row.label for row in rows] == ['dip{layers="0,1"}', "dip-ca{gamma=0.5 policy=lru}", "cats"]
    assert items('dip{layers="0,1"}, mmlu ,') == ('dip{layers="0,1"}', "mmlu")


def test_a_path_may_hold_the_words_that_stand_for_others() -> None:
    (entry,) = choose(["fuse-lora{adapter=a/ADAPTER/DENSITY},dip{density=DENSITY}"], [0.5])
    assert not entry.is_trained
    assert entry.pipeline(0.5, "mine") == "fuse-lora{adapter=a/ADAPTER/0.5},dip{density=0.5}"


def test_the_folder_of_an_adapter_may_have_blanks_in_its_name() -> None:
    (entry,) = choose(["fuse-lora{adapter=ADAPTER},dip{density=DENSITY}"], [0.5])
    assert entry.pipeline(0.5, "my folder") == 'fuse-lora{adapter="my folder"},dip{density=0.5}'


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("dipp", "no method named 'dipp'; did you mean 'dip'?"),
        ("int4", "no sparsification method; name it in a pipeline"),
        ("", "the list is empty"),
        (["dip{density=DENSITY gama=1}"], "no option of dip named 'gama'"),
        (["dop{density=DENSITY}"], "no pass named 'dop'"),
        (["dip{density=DENSITY"], "cannot read"),
        (["dip{density=DENSITY scope=decode}"], "scope=decode"),
        (["dip{density=DENSITY},int4{group=ADAPTER}"], "whole number|ADAPTER"),
    ],
)
def test_what_is_no_row_is_said_at_once(methods: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(methods, [0.5])


def test_the_papers_rows_come_first_and_in_its_order() -> None:
    names = [entry.name for entry in known()]
    assert names.index("gate") < names.index("cats") < names.index("dip") < names.index("wina")


@dataclass(frozen=True)
class Follows(Dip):
    """DIP that follows a cache, as a plug-in has it."""

    cache_aware: ClassVar[bool] = True
    gamma: float = 0.5
    policy: str = "lfu"


def test_a_cache_aware_method_knows_what_it_is_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [unaware_form(name) for name in ("dip-ca", "wina-ca", "sensitivity-ca")] == ["dip", "wina", "sensitivity"]
    assert unaware_form("int8,dip-ca") == "int8,dip"
    assert [unaware_form(name) for name in ("dip", "sparsegpt", "dense", "not-there-ca", "dip-ca{gamma=0.5}")] == 5 * [
        None
    ]
    monkeypatch.setitem(PASSES.added, "follows", (Follows, "follows.py"))
    assert unaware_form("follows") == "dip"


def test_bytes_of_dip_are_half_of_the_mlps() -> None:
    dense, program = outlined(), compile(outlined(), "dip{density=0.5}").program
    score = measured(program)
    mlp, resident, overhead = bytes_read(program, dense, score.trace)
    matrices = 2 * 3 * 32 * 48 * 4
    assert (mlp, overhead) == (matrices / 2, 0)
    # Attention, norms and head of 4 bytes a weight; of the embeddings a token reads one row.
    attention = 2 * (2 * 32 * 32 + 2 * 16 * 32)
    assert resident == 4 * (attention + 5 * 32 + 96 * 32)


def test_norms_of_columns_are_overhead() -> None:
    program = compile(outlined(), "wina{density=0.5}").program
    assert bytes_read(program, outlined(), measured(program).trace)[2] == 4 * 2 * (32 + 48)


def test_scales_are_overhead_and_those_of_a_unit_are_read_with_it() -> None:
    program = compile(outlined(), "int4{group=32 weights=mlp},dip{density=0.5}").program
    mlp, _, overhead = bytes_read(program, outlined(), measured(program).trace)
    # Two bytes for up to 32 weights of a column: two in each of 32 columns of up and gate, one in each of 48 of down.
    scales = 2 * (2 * 2 * 2 * 32 + 2 * 48)
    assert overhead == scales / 2
    assert mlp == (2 * 3 * 32 * 48 / 2 + scales) / 2


def test_mask_bits_are_overhead(tmp_path: Path) -> None:
    about = {"model": outlined().info.name, "digest": outlined().info.digest}
    file = tmp_path / "windows.safetensors"
    Calibration(about, {"windows": random_ids(64).reshape(2, 32)}).save(file)
    program = compile(outlined(), "sparsegpt{density=0.25}", calibration=file).program
    mlp, _, overhead = bytes_read(program, outlined(), None)
    count = 2 * 3 * 32 * 48
    assert overhead == count / 8
    assert mlp == pytest.approx(0.25 * 4 * count + count / 8)


def measured(program: Program) -> Any:
    """A score of a few random tokens, of a program that has no tokenizer."""
    return evaluate(replace(program, tokenizer=byte_tokenizer()), "abcd" * 8, seq_len=8, record=True)


def test_dense_logits_are_computed_once() -> None:
    session = CachedDenseSession(EagerSession(outlined()))
    calls: list[int] = []
    step = session.session.step

    def spy(ids: Any, *, dense: bool = False) -> Any:
        calls.append(len(ids))
        return step(ids, dense=dense)

    session.session.step = spy  # type: ignore[method-assign]
    first = session.step(random_ids(8)).logits
    session.step(random_ids(5, seed=1))
    assert torch.equal(session.step(random_ids(8)).logits, first)
    assert calls == [8, 5]


@pytest.mark.parametrize("options", [{"most_bytes": 0}, {"folder": Path("no/such/folder")}])
def test_what_does_not_fit_is_computed_again(options: dict[str, Any]) -> None:
    session = CachedDenseSession(EagerSession(outlined()), **options)
    assert torch.equal(session.step(random_ids(8)).logits, session.step(random_ids(8)).logits)


def test_dense_logits_are_kept_in_a_file_without_a_name(tmp_path: Path) -> None:
    session = CachedDenseSession(EagerSession(outlined()), folder=tmp_path)
    logits = [session.step(random_ids(8, seed=seed)).logits for seed in range(3)]
    assert list(tmp_path.iterdir()) == []
    for seed in (2, 0, 1):
        assert torch.equal(session.step(random_ids(8, seed=seed)).logits, logits[seed])
