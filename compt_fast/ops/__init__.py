"""Operators, a module for each family with its formula; `paths` says which of formula, C++ and Triton runs."""
