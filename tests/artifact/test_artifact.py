"""The artifact on disk: what is saved comes back, and what was changed is found, by name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import dipc.artifact.writer as artifact
from dipc.artifact.writer import add_report, dump_name, is_artifact, load, save
from dipc.errors import BadFile, UsageError
from dipc.files import check_output
from dipc.frontend.hugging_face import capture
from dipc.ir.program import Program
from dipc.pipeline.numeric_check import probe_logits
from dipc.pipeline.runner import Compiled, run_pipeline
from dipc.pipeline.text import parse_pipeline

PIPELINES = ("dip", "dip-ca{scope=decode}")


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="module")
def dense() -> Program:
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    program = capture(LlamaForCausalLM(config()).eval(), name="tiny")
    return program.replace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0"))


@pytest.fixture(scope="module")
def compiled(dense: Program) -> dict[str, Compiled]:
    return {text: run_pipeline(dense, parse_pipeline(text)) for text in PIPELINES}


@pytest.fixture(scope="module")
def saved(compiled: dict[str, Compiled], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    for index, result in enumerate(compiled.values()):
        save(result, folder / str(index), reports={"verify": {"deviation": 1e-6, "limit": float("inf")}})
    return {text: folder / str(index) for index, text in enumerate(compiled)}


@pytest.fixture
def out(saved: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the DIP artifact, to damage."""
    return Path(shutil.copytree(saved["dip"], tmp_path / "out"))


def reseal(out: Path, **changes: Any) -> None:
    """What a forger would do: write `dipc.json` anew so that every hash is right."""
    data = json.loads((out / "dipc.json").read_text())
    data.pop("sha256")
    data.update(changes)
    data["files"] = {
        p.relative_to(out).as_posix(): {
            "size_bytes": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "dipc.json"
    }
    body = json.dumps(data, indent=2) + "\n"
    data["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    (out / "dipc.json").write_text(json.dumps(data, indent=2) + "\n")


@pytest.mark.smoke
@pytest.mark.parametrize("text", PIPELINES)
def test_what_is_saved_comes_back(compiled: dict[str, Compiled], saved: dict[str, Path], text: str) -> None:
    result = compiled[text]
    found = load(saved[text])
    assert found.program.text() == result.program.text()
    assert torch.equal(probe_logits(found.program), probe_logits(result.program))
    dense, original = found.program.reference, result.program.reference
    assert dense is not found.program and dense.text() == original.text()
    assert torch.equal(probe_logits(dense), probe_logits(original))
    assert found.program.inputs == result.program.inputs
    assert found.program.outputs == result.program.outputs
    assert found.program.info == result.program.info
    assert found.program.mlps == result.program.mlps
    assert found.program.method == result.program.method
    assert found.pipeline == result.pipeline
    assert found.log == result.log
    assert found.reports == {"verify": {"deviation": 1e-6, "limit": "inf"}}
    assert found.program.tokenizer("w3 w5")["input_ids"] == [3, 5]
    assert set(found.manifest.versions) == {"dipc", "torch", "transformers"}
    last = result.pipeline.rpartition(",")[2].partition("{")[0]
    assert found.dumps == {"00-capture": result.before.text(), f"02-{last}": result.program.text()}


def test_dumps_are_kept_and_tied_weights_are_written_once(compiled: dict[str, Compiled], tmp_path: Path) -> None:
    save(compiled["dip"], tmp_path / "out", dumps={dump_name(1, "outline-glu"): "between"})
    found = load(tmp_path / "out", verify=False)
    assert sorted(found.dumps) == ["00-capture", "01-outline-glu", "02-dip"]
    assert found.dumps["01-outline-glu"] == "between"
    weights = (tmp_path / "out" / "weights.safetensors").stat().st_size
    assert weights < 4 * found.program.parameter_count + 8192


def test_a_saved_artifact_can_be_compiled_further(saved: dict[str, Path], dense: Program, tmp_path: Path) -> None:
    save(dense, tmp_path / "dense")
    again = run_pipeline(load(tmp_path / "dense").program, parse_pipeline("dip"))
    assert torch.equal(probe_logits(again.program), probe_logits(load(saved["dip"]).program))


def test_weights_that_are_slices_of_one_tensor(dense: Program, tmp_path: Path) -> None:
    names = [n for n in dense.weights if n.endswith(("gate_proj.weight", "up_proj.weight"))][:2]
    both = torch.cat([dense.weights[n] for n in names])
    weights = {**dense.weights, names[0]: both[:48], names[1]: both[48:]}
    save(dense.replace(weights=weights, tokenizer=None), tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.program.tokenizer is None and found.pipeline == "" and found.log == ()
    assert torch.equal(probe_logits(found.program), probe_logits(dense))


def test_a_program_from_a_bare_config_has_no_weights(tmp_path: Path) -> None:
    bare = config()
    bare.architectures = ["LlamaForCausalLM"]
    (tmp_path / "config.json").write_text(bare.to_json_string())
    result = run_pipeline(capture(tmp_path / "config.json"), parse_pipeline("dip"))
    save(result, tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    assert not (tmp_path / "out" / "tokenizer").exists()
    found = load(tmp_path / "out").program
    assert found.text() == result.program.text() and not found.info.has_weights
    assert all(w.device.type == "meta" for w in found.weights.values())
    assert found.parameter_count == result.program.parameter_count


def test_a_flipped_byte_is_found_in_every_file(out: Path) -> None:
    files = [p for p in out.rglob("*") if p.is_file()]
    assert len(files) >= 7
    for file in files:
        good = file.read_bytes()
        for at in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(BadFile, match=file.name):
                load(out)
        file.write_bytes(good[:-1])
        with pytest.raises(BadFile, match=file.name):
            load(out)
        file.write_bytes(good)
    load(out)


@pytest.mark.smoke
def test_a_changed_byte_says_changed(out: Path) -> None:
    file = out / "weights.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BadFile, match=r"weights\.safetensors: was changed"):
        load(out)


def test_every_byte_of_the_manifest_counts(out: Path) -> None:
    file = out / "dipc.json"
    good = file.read_bytes()
    for at in range(0, len(good), 41):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(BadFile, match=r"dipc\.json"):
            load(out)


def test_missing_files_are_named(out: Path) -> None:
    (out / "program.json").unlink()
    with pytest.raises(BadFile, match=r"program\.json: is missing"):
        load(out)


def test_files_that_the_manifest_does_not_name_are_nothing(out: Path) -> None:
    """A desktop's and an editor's, and what would change the tokenizer if it were read."""
    before = load(out)
    stray = {
        ".DS_Store": b"\0\0\0\1Bud1",
        "dipc.json~": b"{",
        "graph/.00-capture.txt.swp": b"\0",
        "graph/02-more.txt": b"",
        "reports/.1234.tmp": b"",
        "tokenizer/extra.py": b"raise SystemExit",
        "tokenizer/Thumbs.db": b"",
        "tokenizer/chat_template.jinja": b"{{ 'wrong' }}",
        "weights.safetensors.orig": b"",
        "notes/todo.md": b"",
    }
    for name, content in stray.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    (out / "dangling").symlink_to("nowhere")
    found = load(out)
    assert found.dumps == before.dumps and found.reports == before.reports and found.manifest == before.manifest
    tokenizer, own = found.program.tokenizer, before.program.tokenizer
    assert tokenizer.get_vocab() == own.get_vocab() and tokenizer.chat_template == own.chat_template is None
    add_report(out, "score", {"perplexity": 2.0})
    assert load(out).reports["score"] == {"perplexity": 2.0}


def test_an_artifact_may_be_of_links(out: Path, tmp_path: Path) -> None:
    """As a store of packages or of large files makes it; they stay links."""
    (tmp_path / "store").mkdir()
    for name in ("weights.safetensors", "dipc.json"):
        (out / name).rename(tmp_path / "store" / name)
        (out / name).symlink_to(tmp_path / "store" / name)
    add_report(out, "score", {"perplexity": 2.0})
    assert load(out).reports["score"] == {"perplexity": 2.0} and (out / "dipc.json").is_symlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": 1, "a": 1}', "twice"),
        ('{"schema": ' + "9" * 5000 + "}", "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("{}", "schema"),
        ('{"schema": "1"}', "schema"),
        ('{"schema": 0}', "schema"),
        ('{"schema": 1}', "field required"),
        ('{"schema": 3}', r"written by a newer dipc \(schema 3, this one reads 2\); upgrade"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dipc.json").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(BadFile, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_truncated_manifest(out: Path) -> None:
    good = (out / "dipc.json").read_bytes()
    for size in range(0, len(good), 97):
        (out / "dipc.json").write_bytes(good[:size])
        with pytest.raises(BadFile):
            load(out)


def test_unknown_keys_and_wrong_types_even_with_right_hashes(out: Path) -> None:
    good = json.loads((out / "dipc.json").read_text())
    for changes in (
        {"surprise": 1},
        {"model": {**good["model"], "surprise": 1}},
        {"passes": [{**good["passes"][0], "surprise": 1}]},
        {"model": {**good["model"], "layers": "2"}},
        {"mlps": [1]},
        {"pipeline": None},
        {"method": {**good["method"], "density": "half"}},
    ):
        reseal(out, **changes)
        with pytest.raises(BadFile, match=r"dipc\.json"):
            load(out)
        reseal(out, **{key: good[key] for key in changes if key in good})
        data = json.loads((out / "dipc.json").read_text())
        if "surprise" in data:
            del data["surprise"]
            (out / "dipc.json").write_text(json.dumps(data))
            reseal(out)
    load(out)


def test_no_path_leaves_the_folder(out: Path) -> None:
    data = json.loads((out / "dipc.json").read_text())
    record = data["files"]["program.json"]
    for path in ("../program.json", "/etc/passwd", "graph/../../x", "tokenizer/.hidden", "other/file"):
        data.pop("sha256", None)
        changed = {**data, "files": {**data["files"], path: record}}
        body = json.dumps(changed, indent=2) + "\n"
        changed["sha256"] = hashlib.sha256(body.encode()).hexdigest()
        (out / "dipc.json").write_text(json.dumps(changed, indent=2) + "\n")
        with pytest.raises(BadFile, match="no place for a file"):
            load(out)


@pytest.mark.parametrize("target", ["aten.from_file.default", "os.system", "torch.load"])
def test_a_forged_graph_calls_nothing_off_the_list(out: Path, target: str) -> None:
    file = out / "program.json"
    file.write_text(file.read_text().replace("aten.linear.default", target))
    reseal(out)
    with pytest.raises(BadFile, match=rf"program\.json: .*{target}"):
        load(out)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("weights"),
        lambda d: d.update(more=1),
        lambda d: d["weights"].popitem(),
        lambda d: d["weights"].update({"lm.more": {"dtype": "float32", "shape": [1]}}),
        lambda d: next(iter(d["weights"].values())).update(shape=[1]),
        lambda d: next(iter(d["weights"].values())).update(dtype="float16"),
        lambda d: next(iter(d["weights"].values())).update(dtype="load"),
        lambda d: next(iter(d["weights"].values())).update(shape=["a"]),
        lambda d: d["graph"]["inputs"].pop(),
        lambda d: d["graph"]["inputs"][0].update(kind="kv", shape=[]),
        lambda d: d["graph"]["outputs"].pop(),
        lambda d: next(n for n in d["graph"]["nodes"] if "linear" in n.get("target", "")).update(args=[]),
    ],
)
def test_a_forged_program_that_does_not_fit_is_no_traceback(out: Path, change: Any) -> None:
    data = json.loads((out / "program.json").read_text())
    change(data)
    (out / "program.json").write_text(json.dumps(data))
    reseal(out)
    with pytest.raises(BadFile, match=r"program\.json") as error:
        load(out)
    assert "\n" not in str(error.value)


def test_forged_weights_are_no_traceback(out: Path) -> None:
    (out / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    reseal(out)
    with pytest.raises(BadFile, match="Safetensor"):
        load(out)
    (out / "weights.safetensors").unlink()
    reseal(out)
    with pytest.raises(BadFile, match="lists not the files"):
        load(out)


def test_a_forged_tokenizer_runs_no_code(out: Path, tmp_path: Path) -> None:
    settings = out / "tokenizer" / "tokenizer_config.json"
    data = json.loads(settings.read_text())
    data.update(tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]})
    settings.write_text(json.dumps(data))
    (out / "tokenizer" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    reseal(out)
    with contextlib.suppress(BadFile):
        load(out)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(BadFile, match="not an artifact"):
        load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadFile, match="not an artifact"):
        load(tmp_path / "file")
    assert not is_artifact(tmp_path) and not is_artifact(tmp_path / "file")


def test_nothing_is_overwritten(compiled: dict[str, Compiled], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "out", tmp_path / "link"):
        with pytest.raises(UsageError, match="exists; choose another folder or remove it"):
            save(compiled["dip"], path)
    with pytest.raises(UsageError, match="there is no folder"):
        check_output(tmp_path / "absent" / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="there is no folder"):
        check_output(tmp_path / "file" / "out")
    check_output(tmp_path / "free")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_crash_in_the_middle_leaves_nothing(
    compiled: dict[str, Compiled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def crash(*_: object) -> None:
        assert any(tmp_path.rglob("weights.safetensors"))
        raise error("no space left")

    monkeypatch.setattr(artifact, "_manifest", crash)
    expected = UsageError if error is OSError else error
    with pytest.raises(expected, match="no space left"):
        save(compiled["dip"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_added_and_replaced(out: Path) -> None:
    for value in (1.5, 2.5):
        add_report(out, "eval", {"perplexity": value, "worst": float("nan")})
        assert load(out).reports["eval"] == {"perplexity": value, "worst": "nan"}
    assert load(out).reports["verify"]["deviation"] == 1e-6
    for name in ("../x", "", ".x", "a/b", "x" * 99):
        with pytest.raises(UsageError, match="file's name"):
            add_report(out, name, {})
    with pytest.raises(BadFile, match="not an artifact"):
        add_report(out / "graph", "eval", {})


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_an_interrupted_report_leaves_an_artifact_that_loads(
    out: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    add_report(out, "eval", {"perplexity": 1.0})
    replace = os.replace
    calls: list[Path] = []

    def interrupted(part: Path, target: Path) -> None:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(target)
        replace(part, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_report(out, "eval", {"perplexity": 2.0})
    monkeypatch.undo()
    assert load(out).reports.get("eval", {"perplexity": 1.0}) == {"perplexity": 1.0}
    assert not list(out.rglob(".*"))
    add_report(out, "eval", {"perplexity": 3.0})
    assert load(out).reports["eval"] == {"perplexity": 3.0}
