"""What every test shares: one thread, the command line, and a small model on disk.

Torch and all that needs it are imported where they are used: the process that hands tests out to others runs none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("kit")

from dipc.cli import main  # noqa: E402
from dipc.registry import REGISTRIES  # noqa: E402
from kit.command_line import Cli  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not (marked := [item for item in items if item.get_closest_marker("cuda")]):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: torch sees no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def _quick_models() -> Iterator[None]:
    """Run tiny models in one thread, as a second costs more than it brings, and export each architecture once."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    from kit.tracing import captures_share_exports

    torch.set_num_threads(1)
    with captures_share_exports():
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_plugins() -> Iterator[None]:
    """What the tests of a file plug in is gone after them."""
    before = {id(registry): dict(registry.added) for registry in REGISTRIES}
    yield
    for registry in REGISTRIES:  # A kind that was first imported meanwhile had nothing.
        registry.added = before.get(id(registry), {})


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`dipc` in this process, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return Cli(capfd)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model that reads bytes."""
    from kit.byte_text import CONTEXT, byte_tokenizer
    from kit.tiny_models import tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    made: Any = tiny_model(vocab_size=257, max_position_embeddings=CONTEXT, eos_token_id=0, bos_token_id=None)
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that model compiled with `dip-ca`."""
    folder = tmp_path_factory.mktemp("compiled") / "out"
    assert main(["compile", str(model), "--passes", "dip-ca{density=0.5 gamma=0.2}", "-o", str(folder), "--json"]) == 0
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of words."""
    from kit.byte_text import WORDS

    file = tmp_path / "words.txt"
    file.write_text(WORDS * 4, encoding="utf-8")
    return file
