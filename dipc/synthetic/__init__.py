"""Synthetic activity: what the units of a model of which only the config is known would do."""

from dipc.synthetic.generate import SYNTHETIC_TOKENS, synthetic_trace

__all__ = ["SYNTHETIC_TOKENS", "synthetic_trace"]
