"""Calibration: what a model's activations on text say, measured once and kept in one file. See README.md."""
