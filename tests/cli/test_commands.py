"""Every command, as its user sees it: the tables fit 80 columns, and --json prints one object and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kit.command_line import Cli, Result

DIPC = "import sys; from dipc.cli import main; sys.exit(main())"


def check_table(result: Result, *parts: str) -> None:
    assert (result.code, result.err) == (0, "")
    assert "…" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    for part in parts:
        assert part in result.out


@pytest.mark.smoke
def test_help_needs_no_heavy_import() -> None:
    code = "import sys; from dipc.cli import main; main(['--help'])\n"
    code += "print(*({'torch', 'numpy', 'transformers', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "estimate" in done.stdout and "..." not in done.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("arguments", [[], ["passes"], ["policies"], ["hw"], ["--help"], ["compile", "-h"]])
def test_help(cli: Cli, arguments: list[str]) -> None:
    check_table(cli(*arguments), "Usage: dipc")


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("dipc 0.")


def test_a_process_says_nothing_on_stderr(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIPC, "compile", str(model), "-p", "dip", "-o", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote" in done.stdout


def test_a_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-c", DIPC, "hw", "list", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_compile(cli: Cli, model: Path, tmp_path: Path) -> None:
    made = cli("compile", model, "--passes", "dip{density=0.5}", "-o", tmp_path / "a", "--verify")
    check_table(made, "outline-glu", "deviation", "-2 glu", f"wrote {tmp_path / 'a'} (")
    assert sorted(p.name for p in (tmp_path / "a" / "graph").iterdir()) == [
        "00-capture.txt",
        "01-outline-glu.txt",
        "02-dip.txt",
    ]


@pytest.mark.smoke
def test_compile_as_json(cli: Cli, model: Path, tmp_path: Path) -> None:
    arguments = ("compile", model, "-p", "dip", "-o", tmp_path / "b", "--name", "mine", "--dump-after", "--json")
    document = cli(*arguments).json()
    assert document["model"]["name"] == "mine"
    assert [p["text"] for p in document["passes"]] == ["outline-glu", "dip"]
    assert list(document["dumps"]) == ["00-capture", "01-outline-glu", "02-dip"]
    assert document["out_bytes"] == sum(p.stat().st_size for p in (tmp_path / "b").rglob("*") if p.is_file())


def test_dump_after_one_pass(cli: Cli, model: Path, tmp_path: Path) -> None:
    made = cli("compile", model, "-p", "dip", "-o", tmp_path / "c", "--dump-after", "outline-glu")
    assert made.out.startswith("# 01-outline-glu\nprogram tiny")
    assert "dipc.glu" in made.out and "# 02-dip" not in made.out


def test_dry_run_writes_nothing(cli: Cli, model: Path, tmp_path: Path) -> None:
    planned = cli("compile", model, "-p", "dip-ca{density=0.4}", "-o", tmp_path / "d", "--dry-run")
    check_table(planned, "outline-glu,dip-ca{density=0.4}", "given", "default", "gamma", "0.2", "llama")
    assert not (tmp_path / "d").exists()
    document = cli("compile", model / "config.json", "-p", "dip-ca", "--dry-run", "--json").json()
    assert document["passes"][1]["options"]["capacity"] == 0.5
    assert document["model"]["layers"] == 2


def test_inspect(cli: Cli, out: Path, model: Path) -> None:
    check_table(cli("inspect", out), "0-1", "16 lfu", "KV cache", "dip-ca", "density of the MLPs   0.5")
    check_table(cli("inspect", model), "gate_proj", "dense", "density of the MLPs   1\n")
    document = cli("inspect", out, "--layer", "1", "--json").json()
    site = document["sites"][0]
    assert (site["name"], site["units"], site["active"], site["capacity"]) == ("layers.1.input", 32, 16, 16)
    # Two matrices of 48 x 32 in 32 bits: a unit is a column of both.
    assert (site["unit_bytes"], site["size_bytes"]) == (2 * 48 * 4, 2 * 48 * 32 * 4)
    assert document["totals"]["mlp_bytes"] == 2 * 3 * 48 * 32 * 4


def test_inspect_graph(cli: Cli, out: Path) -> None:
    whole = cli("inspect", out, "--graph").out
    assert whole == (out / "graph" / "02-dip-ca.txt").read_text(encoding="utf-8")
    layer = cli("inspect", out, "--graph", "--layer", "1").out
    assert "model.layers.1.mlp:" in layer and "model.layers.0" not in layer


def test_inspect_diff(cli: Cli, out: Path) -> None:
    shown = cli("inspect", out, "--diff")
    check_table(shown, "layer 0, model.layers.0.mlp", "+%silu", "layer 1: the same change as layer 0")
    assert "layer 1, model.layers.1.mlp" not in shown.out
    document = cli("inspect", out, "--diff", "--json").json()
    assert (document["before"], document["after"]) == ("00-capture", "02-dip-ca")
    assert [0, 1] in [change["layers"] for change in document["changes"]]
    one = cli("inspect", out, "--diff", "--layer", "1", "--json").json()
    assert {tuple(change["layers"]) for change in one["changes"]} == {(1,)}


def test_explain(cli: Cli, out: Path, model: Path, tmp_path: Path) -> None:
    check_table(cli("explain", out), "model.layers.1.mlp", "input 16/32, glu 24/48")
    check_table(cli("explain", model), "2 gated MLPs, all dense")
    assert cli("compile", model, "-p", "dip,pack", "-o", tmp_path / "packed").code == 0
    assert {mlp["by"] for mlp in cli("explain", tmp_path / "packed", "--json").json()["mlps"]} == {"dip"}
    assert cli("compile", model, "-p", "dip{layers=1}", "-o", tmp_path / "half").code == 0
    check_table(cli("explain", tmp_path / "half"), "dip: layer 0 is not among layers=1")
    mlps = cli("explain", tmp_path / "half", "--json").json()["mlps"]
    assert [m["rewritten"] for m in mlps] == [False, True]
    assert [m["density"] for m in mlps] == [1.0, 0.5]


@pytest.mark.smoke
def test_run(cli: Cli, out: Path) -> None:
    streamed = cli("run", out, "--prompt", "The city", "--max-new-tokens", "5")
    document = cli("run", out, "--prompt", "The city", "--max-new-tokens", "5", "--json").json()
    assert (streamed.code, streamed.out) == (0, document["text"] + "\n")
    assert "dip-ca, density 0.5, scope all" in streamed.err and "on this machine" in streamed.err
    assert document["method"]["name"] == "dip-ca"
    assert cli("run", out, "--prompt", "The city", "--max-new-tokens", "5", "--quiet").err == ""


@pytest.mark.smoke
def test_eval_then_estimate_with_its_trace(cli: Cli, out: Path, text: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.safetensors"
    check_table(cli("eval", out, "--text", text, "--seq-len", "32", "--save-trace", trace), "perplexity", "words.txt")
    document = cli("eval", out, "--text", text, "--seq-len", "32", "--max-tokens", "64", "--json").json()
    assert (document["windows"], document["density"], document["method"]["scope"]) == (2, 0.5, "all")
    assert 0 < document["hit_rate"] <= 1
    replayed = cli("estimate", out, "--hw", "a18", "--dram", "80%", "--context", "0", "--trace", trace, "--json").json()
    assert (replayed["score"], replayed["policy"]) == (None, "lfu")
    assert replayed["source"].startswith("a given trace")


def test_estimate(cli: Cli, out: Path, text: Path) -> None:
    arguments = ("estimate", out, "--hw", "a18", "--dram", "75%", "--context", "0", "--text", text, "--seq-len", "32")
    check_table(
        cli(*arguments), "simulated on a18", "tokens per second", "perplexity", "left over", "closed loop", "a18.yaml"
    )
    found = cli(*arguments, "--json").json()
    assert found["simulated"] is True
    assert found["speedup"] == found["sparse"]["tokens_per_second"] / found["dense"]["tokens_per_second"]
    assert found["device"]["assumptions"][1]["source"] == "given by the user"
    assert found["score"]["method"]["name"] == "dip-ca"


def test_estimate_from_a_config(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("compile", model / "config.json", "-p", "dip", "-o", tmp_path / "e").code == 0
    arguments = ("estimate", tmp_path / "e", "--hw", "a18", "--dram", "75%", "--context", "0", "--seed", "3")
    check_table(cli(*arguments), "synthetic", "seed")
    assert cli(*arguments, "--json").json()["seed"] == 3
    check_table(cli("estimate", model, "--hw", "a18", "--dram", "75%", "--context", "0"), "dense")


def test_passes(cli: Cli) -> None:
    check_table(cli("passes", "list"), "outline-glu", "dip-ca")
    listed = {p["name"]: p for p in cli("passes", "list", "--json").json()["passes"]}
    assert listed["dip"]["requires"] == ["outline-glu"]
    check_table(cli("passes", "show", "dip-ca"), "all | decode", "gamma", "The paper uses 0.2")
    options = {o["name"]: o for o in cli("passes", "show", "dip-ca", "--json").json()["options"]}
    assert options["density"]["default"] == 0.7
    assert all(o["meaning"] for o in options.values())


def test_policies(cli: Cli) -> None:
    check_table(cli("policies", "list"), "lfu", "lru", "Evict the unit that was not touched for the longest time.")
    rows = cli("policies", "list", "--json").json()["policies"]
    listed = {p["name"]: p["summary"] for p in rows}
    assert {"lfu", "lru", "none"} <= set(listed) and all(listed.values())
    facts = {p["name"]: (p["closed_loop"], p["needs_calibration"]) for p in rows}
    assert facts["lfu"] == (True, False) and facts["static"] == (True, True) and facts["belady"] == (False, False)


def test_hw(cli: Cli, tmp_path: Path) -> None:
    check_table(cli("hw", "list"), "a18", "60 GB/s")
    file = Path(next(d["file"] for d in cli("hw", "list", "--json").json()["devices"] if d["name"] == "a18"))
    check_table(cli("hw", "show", "a18"), "datasheet", "Federici")
    assert cli("hw", "show", file, "--json").json()["dram_bytes_per_s"] == 60e9
    assert cli("hw", "validate", file).out == f"{file}: right\n"
    bad = tmp_path / "a18.yaml"
    bad.write_text(file.read_text(encoding="utf-8").replace("4 GB\n", "4\n"), encoding="utf-8")
    found = cli("hw", "validate", bad)
    found.fails(5, "1 problem")
    assert '"4" has no unit' in found.out
    assert json.loads(cli("hw", "validate", bad, "--json").out)["valid"] is False


def test_hw_warns_of_what_can_hardly_be_meant(cli: Cli, tmp_path: Path) -> None:
    file = Path(next(d["file"] for d in cli("hw", "list", "--json").json()["devices"] if d["name"] == "a18"))
    slow = tmp_path / "a18.yaml"
    slow.write_text(file.read_text(encoding="utf-8").replace("60 GB/s", "60 MB/s"), encoding="utf-8")
    doubt = "dram.bandwidth: 60 MB/s is slower than the flash, 1 GB/s; check both, and their units"
    found = cli("hw", "validate", slow)
    assert (found.code, found.err) == (0, "")
    assert found.out == f"warning: {slow}:14: {doubt}\n{slow}: right, with 1 warning\n"
    assert cli("hw", "validate", slow, "--json").json()["warnings"] == [f"{slow}:14: {doubt}"]
    shown = cli("hw", "show", slow)
    assert (shown.code, shown.err) == (0, f"dipc: warning: {slow}:14: {doubt}\n")


def test_env(cli: Cli) -> None:
    check_table(cli("env"), "torch", "native library", "processor", "plug-ins")
    assert cli("env", "--json").json()["python"].startswith("3.")


def test_a_plugin_file_is_known_to_the_command(cli: Cli, tmp_path: Path) -> None:
    plugin = tmp_path / "my_half.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from dipc.passes.dip import Dip\n\n\n"
        "@dataclass(frozen=True)\n"
        "class MyHalf(Dip):\n"
        '    """Half of everything."""\n',
        encoding="utf-8",
    )
    check_table(cli("passes", "list", "--plugin", plugin), "my-half", "Half of everything.")
