"""Timing contenders side by side: what `dipc bench` does. README.md says how a figure is made."""
