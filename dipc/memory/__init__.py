"""Lower a program to its memory traffic, and price it on a device."""
