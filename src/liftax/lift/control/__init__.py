"""Transforms of JAX that compile, map, loop, branch and rematerialize, over functions of a module."""
