"""GGUF: the files of llama.cpp as models."""
