"""Where tests find files."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / "examples" / "configs"

SHARED = ROOT.parent / "shared"
"""Trained models and texts beside the checkout; tests that want them are skipped without."""
