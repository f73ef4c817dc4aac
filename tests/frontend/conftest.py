"""Captures as users have them: each with an export of its own."""

from __future__ import annotations

import pytest

from dipc.frontend.tracer import trace


@pytest.fixture(autouse=True)
def _own_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipc.frontend.hugging_face.trace", trace)
