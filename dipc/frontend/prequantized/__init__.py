"""Checkpoints that come quantised, read by their published layouts: codes as they are, all else widened."""
