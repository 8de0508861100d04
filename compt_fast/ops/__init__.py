"""Operators: which of formula, C++ and Triton computes a call."""
