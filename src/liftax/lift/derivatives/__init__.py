"""Derivatives of functions of a module: what is particular to each, on `machinery.operands`."""
