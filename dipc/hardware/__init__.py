"""Devices: how much memory they have, how fast it reads, and where each figure comes from."""
