"""The same programs on flax.linen and on liftax."""
