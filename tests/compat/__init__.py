"""Published packages built on Linen, run on Flax and by `python -m liftax.linen`, and compared."""
