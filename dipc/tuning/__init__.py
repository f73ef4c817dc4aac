"""Measure on text what passes need, and train what wins accuracy back."""
