"""Triton kernels, imported as `compt_fast.kernels`.

The modules import Triton, so they are imported only where a kernel runs.
"""
