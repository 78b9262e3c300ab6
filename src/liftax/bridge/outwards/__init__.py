"""Modules of liftax as models of Linen, NNX, Equinox and Haiku: one library a file."""
