"""The dense reference of a program, and what methods that go their own way must not get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from dipc.api import capture, compile, evaluate, load, save
from dipc.backends.eager import EagerSession
from dipc.errors import UnsupportedModel, UsageError
from dipc.frontend.decoder import require_decoder
from dipc.ir.selections import cache_aware
from dipc.memory.lowering import lower, program_density
from dipc.passes.dip import Dip
from dipc.pipeline.mlp_rewriter import MlpRewriter
from dipc.pipeline.runner import Compiled, run_pipeline
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import parse_pipeline
from dipc.text import encode
from kit.byte_text import CONTEXT, byte_tokenizer
from kit.runs import relative
from kit.tiny_models import outlined, random_ids, tiny_llama, tiny_model


@dataclass(frozen=True)
class Zeroing(SparsityPass):
    """Multiply by the mask instead of gathering: no product operator to undo."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        mask = mlp.select_topk(mlp.abs(mlp.x), self.density, "input")
        x = mlp.product(mlp.x, mask)
        hidden = mlp.product(mlp.activate(mlp.linear(x, mlp.gate)), mlp.linear(x, mlp.up))
        return mlp.linear(hidden, mlp.down)


@dataclass(frozen=True)
class Twice(SparsityPass):
    """Read gate whole for the score, and its rows again."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        gate = mlp.activate(mlp.linear(mlp.x, mlp.gate))
        mask = mlp.select_topk(mlp.abs(gate), self.density, "glu")
        kept = mlp.activate(mlp.row_linear(mlp.x, mask, mlp.gate))
        return mlp.gather_linear(mlp.product(kept, mlp.row_linear(mlp.x, mask, mlp.up)), mask, mlp.down)


@dataclass(frozen=True)
class SameSite(SparsityPass):
    """Select twice at one place."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        mlp.select_topk(mlp.abs(mlp.x), 0.5, "input")
        mlp.select_topk(mlp.abs(mlp.x), 0.25, "input")
        return mlp.x


@dataclass(frozen=True)
class Nowhere(SparsityPass):
    """A misspelt place."""

    def rewrite(self, mlp: MlpRewriter) -> fx.Node:
        return mlp.select_topk(mlp.abs(mlp.x), 0.5, "inputs")


def test_the_reference_is_the_dense_model_whatever_the_method_writes() -> None:
    program = Zeroing().run(outlined()).program
    ids = random_ids(12)
    dense = EagerSession(program.reference).step(ids).logits
    assert relative(dense, EagerSession(tiny_llama()).step(ids).logits) < 1e-5
    assert relative(dense, EagerSession(program).step(ids).logits) > 1e-3


def test_a_matrix_that_is_read_twice_is_counted_once() -> None:
    program = Twice(density=0.5).run(outlined()).program
    assert lower(program).total_bytes == lower(outlined()).total_bytes
    # Gate whole, half of up and of down: (1 + 1/2 + 1/2) / 3.
    assert program_density(program) == pytest.approx(2 / 3)


def test_two_selections_at_one_place_are_refused() -> None:
    with pytest.raises(UsageError, match=r"once at 'input'.*layers\.0\.input is taken"):
        SameSite().run(outlined())
    with pytest.raises(UsageError, match="not at 'inputs'"):
        Nowhere().run(outlined())


def test_two_methods_are_both_named_and_share_a_scope() -> None:
    both = run_pipeline(outlined(), parse_pipeline("dip{layers=0 density=0.3},dip-ca{layers=1}")).program
    assert both.method.name == "dip+dip-ca"
    assert both.method.options == "dip{density=0.3 layers=0},dip-ca{layers=1}"
    assert both.reference is outlined()
    with pytest.raises(UsageError, match="differ in scope"):
        run_pipeline(outlined(), parse_pipeline("dip{scope=decode layers=0},dip-ca{layers=1}"))


class TwoMlps(nn.Module):
    """Two fused gated MLPs where a layer usually has one."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.a = nn.Linear(32, 96, bias=False)
        self.b = nn.Linear(48, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.a(self.first(x)).chunk(2, -1)
        out: torch.Tensor = self.b(nn.functional.silu(gate) * up)
        return out


def test_two_mlps_in_one_module_keep_their_weights_and_sites_apart() -> None:
    model = tiny_model("phi3")
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.mlp = TwoMlps(layer.mlp)
    program = capture(model)
    result: Compiled = compile(program, "dip{density=0.5}", check_numerics=True)
    names = [m.name for m in result.program.mlps]
    assert len(names) == len(set(names)) == 4
    assert len({s.name for s in lower(result.program).sites}) == 8
    assert lower(result.program).total_bytes == lower(result.program.reference).total_bytes


def test_bits_per_byte_counts_the_bytes_that_were_scored() -> None:
    program = tiny_llama(vocab_size=257, max_position_embeddings=CONTEXT).replace(tokenizer=byte_tokenizer())
    program = Dip().run(run_pipeline(program, parse_pipeline("outline-glu")).program).program
    english = "the same words again and again, and again the same words " * 4
    score = evaluate(program, english, seq_len=16, max_tokens=64)
    mixed = evaluate(program, english + "\u6f22\u5b57" * 300, seq_len=16, max_tokens=64)
    assert mixed.bits_per_byte == pytest.approx(score.bits_per_byte)
    assert mixed.perplexity == pytest.approx(score.perplexity)


def test_token_ends_are_counted_in_bytes() -> None:
    text = "a\u00e9\u6f22\U0001f600b"  # 1 + 2 + 3 + 4 + 1 bytes
    ids, ends = encode(byte_tokenizer(), text, None)
    assert len(ids) == len(ends) and ends[-1] == len(text.encode()) == 11
    assert (ends[1:] >= ends[:-1]).all()


def test_a_checkpoint_with_its_own_code_is_not_refused_for_its_type() -> None:
    class Own:
        architectures = ("FooForCausalLM",)
        model_type = "foo"
        auto_map = {"AutoModelForCausalLM": "modeling_foo.FooForCausalLM"}  # noqa: RUF012

    require_decoder(Own(), "foo")
    Own.auto_map = {}
    with pytest.raises(UnsupportedModel):
        require_decoder(Own(), "foo")


def test_an_artifact_of_a_family_with_fused_weights_keeps_both_graphs(tmp_path: Path) -> None:
    result = compile(capture(tiny_model("phi3")), "dip{density=0.5}")
    save(result, tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.text() == result.program.text()
    ids = random_ids(6)
    for got, meant in ((found, result.program), (found.reference, result.program.reference)):
        assert torch.equal(EagerSession(got).step(ids).logits, EagerSession(meant).step(ids).logits)


def test_a_weight_that_changed_under_its_name_cannot_be_saved(tmp_path: Path) -> None:
    program = Dip().run(outlined()).program
    name = next(n for n in program.weights if n.endswith("up_proj.weight"))
    for changed in (program.weights[name] + 1, program.weights[name].half()):
        broken = program.replace(weights={**program.weights, name: changed})
        with pytest.raises(UnsupportedModel, match="differs between the program and its dense reference"):
            save(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_biases_are_read_and_embedding_tables_are_looked_up() -> None:
    """Untied: all of the table's bytes are resident and none is read; the MLPs' biases are read."""
    program = run_pipeline(tiny_llama(mlp_bias=True), parse_pipeline("dip")).program
    table = program.weights["model.embed_tokens.weight"].numel() * program.info.weight_bits / 8
    assert lower(program).resident_unread_bytes == table
    assert lower(program.reference).resident_unread_bytes == table
    tied = run_pipeline(tiny_llama(tie_word_embeddings=True), parse_pipeline("dip")).program
    assert lower(tied).resident_unread_bytes == 0


def test_a_device_of_one_pass_leaves_the_other_pass_alone() -> None:
    text = 'dip-ca{layers=0 capacity=0.25},dip-ca{layers=1 hw=a18 dram="90%" context=0}'
    program = run_pipeline(outlined(), parse_pipeline(text)).program
    capacities = {site: c for site, (_, c) in cache_aware(program).items()}
    assert capacities["layers.0.input"] == 8 and capacities["layers.1.input"] > 16


def test_what_is_no_gated_pair_is_not_split() -> None:
    """A third of three chunks is no half."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 144, bias=False), nn.Linear(48, 32, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate, up, _ = self.a(x).chunk(3, -1)
            out: torch.Tensor = self.b(nn.functional.silu(gate) * up)
            return out

    model = tiny_model("llama")
    model.model.layers[0].mlp = Three()  # type: ignore[union-attr, index]
    result = compile(capture(model), "outline-glu", check_numerics=True)
    assert [m.layer for m in result.program.mlps] == [1]
    assert result.log[0].mismatches
