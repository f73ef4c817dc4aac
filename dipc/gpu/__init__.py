"""Kernels for tensors on a GPU, in Triton, which torch's builds for CUDA bring along.

Nothing in dipc needs them: every kernel has a reference in torch, and `selection` says what it covers. No name is given
here, so that `dipc env` can ask `presence` without importing torch.
"""
