"""The contract of every device, whoever wrote it."""

from __future__ import annotations

import pytest

from dipc.hardware.find import device_names, load_device


@pytest.mark.smoke
@pytest.mark.parametrize("name", device_names())
def test_device_loads(name: str) -> None:
    device = load_device(name)
    assert device.name and device.dram_available > 0
