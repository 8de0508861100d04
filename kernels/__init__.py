"""Triton kernels, imported as `compt_fast.kernels`.

There is none in this version: every step runs on the PyTorch reference path.
"""
