"""The passes, one file each; a sparsification method is a pass. See README.md."""
