"""The work of candidates: each file sets some of them up, in a process that imports this file and what it needs."""
