"""Run a program on text: perplexity, text, tasks, and estimates of speed."""
