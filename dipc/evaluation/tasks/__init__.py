"""Benchmarks of the LM Evaluation Harness (the extra `eval`) on anything that runs.

run.py reads the names and gathers the scores, harness.py asks a session what the harness asks a model, local.py serves
the harness's own tasks from local files. Nothing here imports the harness before a task is asked for.
"""
