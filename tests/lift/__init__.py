"""Tests of the lifted transforms."""
