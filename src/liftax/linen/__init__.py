"""Run programs and packages that are written for Flax Linen on liftax, unedited.

    python -m liftax.linen train.py --its args
    python -m liftax.linen -m package.train --its args
    python -m liftax.linen -m pytest tests

In a notebook, before anything imports Flax:

    import liftax.linen
    liftax.linen.install()

From then on `flax.linen` is `liftax.nn`, `flax.core` is `liftax.core`, and the errors in `flax.errors` that Linen
raises are those of `liftax.errors`, whoever imports them. Everything else of Flax stays what it is.
"""

from liftax.linen.install import install

__all__ = ["install"]
