"""Activity that is made up: drawn from a model that was fitted on a real one (README.md)."""

from dipc.memory.synthetic.activity import ActivityModel, default_activity
from dipc.memory.synthetic.generate import SYNTHETIC_TOKENS, synthetic_trace

__all__ = ["SYNTHETIC_TOKENS", "ActivityModel", "default_activity", "synthetic_trace"]
