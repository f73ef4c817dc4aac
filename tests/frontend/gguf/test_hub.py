"""GGUF files on the hub, which is a folder here: what is fetched, and what is asked to be named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dipc.errors import UsageError
from dipc.frontend import hugging_face
from dipc.frontend.gguf.hub import gguf_on_hub
from kit.gguf_files import write_gguf
from kit.tiny_models import tiny_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def download(name: str, file: str) -> str:
        if not (tmp_path / name / file).is_file():
            raise OSError(f"404 for {file}")
        return str(tmp_path / name / file)

    def cached(name: str, file: str, **_: object) -> str | None:
        path = tmp_path / name / file
        return str(path) if path.exists() else None

    def listed(name: str) -> list[str]:
        return [str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*") if path.is_file()]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", listed)
    monkeypatch.setattr("transformers.utils.hub.cached_file", cached)
    (tmp_path / "owner" / "repo").mkdir(parents=True)
    return tmp_path / "owner" / "repo"


def test_the_one_file_of_a_repository(hub: Path) -> None:
    model = tiny_model()
    write_gguf(hub / "m.gguf", model, split_max_tensors=12)
    (hub / "mmproj-m.gguf").write_bytes(b"")
    assert gguf_on_hub("owner/repo") == hub / "m-00001-of-00002.gguf"
    program = hugging_face.capture("owner/repo")
    assert program.info.name == "owner/repo"
    assert torch.equal(program.weights["model.norm.weight"], model.get_parameter("model.norm.weight"))


def test_one_of_several_is_named(hub: Path) -> None:
    for name in ("a.gguf", "deep/b.gguf"):
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"several models; give one, as owner/repo/a\.gguf or owner/repo/deep/b\.gguf"):
        gguf_on_hub("owner/repo")
    assert gguf_on_hub("owner/repo/deep/b.gguf") == hub / "deep" / "b.gguf"
    with pytest.raises(UsageError, match=r"no model 'owner/repo/c\.gguf': the hub did not give it: 404 for c\.gguf"):
        gguf_on_hub("owner/repo/c.gguf")


def test_a_repository_with_a_config_is_no_gguf_model(hub: Path) -> None:
    (hub / "a.gguf").write_bytes(b"")
    (hub / "config.json").write_text("{}")
    assert gguf_on_hub("owner/repo") is None
