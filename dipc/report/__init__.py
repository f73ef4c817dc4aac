"""Results as people and programs read them: each kind of result as a JSON-able dict and as tables.

One file per kind. A dict holds every field that its figures depend on, and `"schema": 1`; the tables are for a terminal
of 80 columns and for a pipe.
"""
