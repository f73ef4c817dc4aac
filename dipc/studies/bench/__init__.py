"""Candidates timed side by side, for `dipc bench`. README.md says how a figure is made."""
