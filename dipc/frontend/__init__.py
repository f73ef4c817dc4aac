"""Capture a model: a Hugging Face model, a config or a module becomes a program."""
