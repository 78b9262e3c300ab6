"""Tests of the lifted transforms that are no derivatives."""
