"""Boxes that say along which axes of a mesh a variable is split, and the rules that name them."""
