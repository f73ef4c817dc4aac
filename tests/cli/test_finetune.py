"""`dipc finetune`: what it prints, what it leaves, and how it fails."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kit.command_line import Cli, Result

pytest.importorskip("peft", reason="needs the extra finetune")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own

QUICK = ("--rank", 2, "--iterations", 3, "--seq-len", 32)


def test_the_next_command_compiles_what_was_trained(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    command = ("finetune", model, "--passes", "dip{density=0.4}", "--text", text, "-o", folder, *QUICK)
    result = cli(*command)
    assert (result.code, result.err) == (0, "")
    title, header, perplexity = result.out.splitlines()[:3]
    assert "dip{density=0.4}" in title and "held out" in title
    assert header.split() == ["dense", "sparse", "with", "adapters"]
    assert perplexity.split()[0] == "perplexity" and len(perplexity.split()) == 4
    assert f"wrote {folder}" in result.out
    following = result.out.splitlines()[-1].removeprefix("next: dipc ").replace("-o OUT", f"-o {tmp_path / 'out'}")
    assert cli(*shlex.split(following)).code == 0
    score = cli("eval", tmp_path / "out", "--text", text, "--seq-len", 32, "--json").json()
    assert score["method"]["options"] == f"fuse-lora{{adapter={folder}}},dip{{density=0.4}}"

    again = cli(*command, "--json").json()
    assert (again["kind"], again["recipe"]["rank"], len(again["losses"])) == ("finetuned", 2, 3)
    assert again["next"] == result.out.splitlines()[-1].removeprefix("next: ")
    cli(*command, "--restart").fails(2, "exists")
    cli(*command[:-1], 16).fails(2, "holds an adapter with seq len 32 and not 16")


def test_bad_input_is_one_line(cli: Cli, model: Path, text: Path, tmp_path: Path) -> None:
    def finetune(*arguments: object, passes: str = "dip", file: Path | None = None) -> Result:
        return cli(
            "finetune", model, "--passes", passes, "--text", file or text, "-o", tmp_path / "a", *QUICK, *arguments
        )

    finetune(file=tmp_path / "none.txt").fails(2, "none.txt: cannot be read")
    finetune(passes="dip{density=2}").fails(2, "outside (0, 1]")
    finetune(passes="dip,int8").fails(2, "rounded or pruned for good")
    finetune("--calibration", tmp_path / "c").fails(5, "c: ")
    finetune("--rank", 0).fails(2, "--rank")
    cli("finetune", model, "--passes", "dip", "-o", tmp_path / "a").fails(2, "--text")
    (tmp_path / "a").mkdir()
    finetune().fails(2, "exists")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "words.txt"]
