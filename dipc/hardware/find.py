"""Find devices: by name, by file, and as a user asks for one."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from dipc.errors import BadFile, DipcWarning, UsageError
from dipc.hardware.device import Device
from dipc.hardware.device_file import read_device
from dipc.hardware.doubts import doubts
from dipc.quantities import parse_bandwidth, parse_bytes
from dipc.registry import FileRegistry, register_kind

DEVICES = register_kind(FileRegistry("device", Path(__file__).parents[1] / "hwmodels", (".yaml", ".yml")))
"""The device files by name: those of `dipc/hwmodels`, and what plug-ins add."""


def load_device(name_or_path: str | Path) -> Device:
    """The device of that name, or the one in that file (a path, or text that ends in .yaml or has a separator).

    Warns of figures that can hardly be meant, a DipcWarning for each. Raises UnknownName, UsageError if there is no
    such file, and BadFile naming line and key of its first problem.
    """
    path = str(name_or_path) if _is_path(name_or_path) else str(device_path(str(name_or_path)))
    device, problems, doubts = read_device(path)
    if device is None:
        raise BadFile(problems[0])
    for doubt in doubts:
        warnings.warn(doubt, DipcWarning, stacklevel=2)
    return device


def device_for(hardware: str | Path | Device, dram: str | None, flash: str | None, model_bytes: float) -> Device:
    """A device as a user asks for it.

    Args:
        hardware: name, file, or the device itself.
        dram: DRAM for the model, "4 GB", or a share of the model, "50%"; by default as the device's file says.
        flash: flash bandwidth, "1 GB/s", instead of the file's.
        model_bytes: what a share is of.

    Raises UsageError for a quantity that cannot be read or is not there, and what `load_device` raises.
    """
    device = hardware if isinstance(hardware, Device) else load_device(hardware)
    if dram is not None:
        device = device.with_dram_available(_share_of(dram, model_bytes) if "%" in dram else parse_bytes(dram))
    if flash is not None:
        device = device.with_flash_bandwidth(parse_bandwidth(flash))
        for key, what in doubts(device):
            if key in ("dram.bandwidth", "flash.bandwidth"):
                warnings.warn(f"{device.name} with flash {flash}: {key}: {what}", DipcWarning, stacklevel=2)
    return device


def _share_of(text: str, model_bytes: float) -> int:
    number = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*%\s*", text)
    if number is None or float(number[1]) == 0:
        raise UsageError(f'{text!r} is no amount of DRAM; write a size such as "4 GB" or a share of the model, 50%')
    return round(float(number[1]) / 100 * model_bytes)


def validate_device(path: str | Path) -> list[str]:
    """Every problem of a device file, one line each in the order of the file; empty if it is right.

    Raises UsageError if there is no such file.
    """
    return read_device(str(path)).problems


def device_names() -> list[str]:
    """Return the names of the built-in devices and of those that plug-ins registered, sorted."""
    return DEVICES.names()


def device_path(name: str) -> Path:
    """Return the file of the device called `name`. Raises UnknownName."""
    return DEVICES.get(name)


def file_of(name_or_path: str) -> str:
    """Return the file that a device's name, or the path to it, stands for."""
    return str(device_path(name_or_path)) if name_or_path in device_names() else name_or_path


def _is_path(name_or_path: str | Path) -> bool:
    text = str(name_or_path)
    separators = {os.sep, "/", os.altsep or os.sep}
    return (
        isinstance(name_or_path, Path)
        or text.endswith((".yaml", ".yml"))
        or any(separator in text for separator in separators)
    )
