"""How missed weights are read from flash: which reads they make, how long these take, in which order units lie."""

from __future__ import annotations

from dipc.memory.flash.options import Bundling, Layout, Reads

__all__ = ["Bundling", "Layout", "Reads"]
