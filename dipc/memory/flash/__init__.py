"""How missed weights are read from flash: which reads they make, how long these take, in which order units lie."""

from __future__ import annotations

from dipc.memory.flash.options import Bundling, FlashReadOptions, Layout

__all__ = ["Bundling", "FlashReadOptions", "Layout"]
