"""The engine of comparisons and studies: runs that are made once, by whatever workers there are, and kept in a folder.

`run` says what a run and its executor are, `folder` keeps what runs gave, `code` tells which code that depends on,
`workers`, `processes` and `cluster` execute runs, `scheduler` makes those that the folder lacks, and `dense_session`
is the dense model that all of them are compared with.
"""
