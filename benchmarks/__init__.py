"""What liftax costs, beside plain JAX and its peers: `python -m benchmarks.run`; README.md says what is measured."""
