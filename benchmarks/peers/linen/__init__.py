"""Linen, and liftax, which takes the same code."""
