"""One program a package, written for Flax Linen. `build()` returns a function of arrays, and arguments for it."""
