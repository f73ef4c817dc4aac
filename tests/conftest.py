"""What every test shares: the markers, and the fixtures of files that several tests read."""

from __future__ import annotations

import pytest
from baselines import calibration
from quantizing import config

__all__ = ["calibration", "config"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nightly: long runs, left out unless asked for with -m nightly")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")
