"""Derivatives of pure functions: JAX's, with `reduce_axes`, strict checks and errors that name the leaf.

    vjp  : (a -> b) -> a -> (b, CT b -o CT a)
    grad : (a -> R) -> a -> CT a
    jvp  : (a -> b) -> (a, T a) -> (b, T b)

Nothing here knows modules; the transforms in `liftax.lift` are built on these.
"""

from liftax.ad.grad import grad as grad
from liftax.ad.grad import value_and_grad as value_and_grad
from liftax.ad.hvp import hvp as hvp
from liftax.ad.hvp import vhp as vhp
from liftax.ad.implicit import SolveInfo as SolveInfo
from liftax.ad.implicit import fixed_point as fixed_point
from liftax.ad.implicit import root as root
from liftax.ad.jvp import jvp as jvp
from liftax.ad.laplacian import divergence as divergence
from liftax.ad.laplacian import laplacian as laplacian
from liftax.ad.vjp import VjpFn as VjpFn
from liftax.ad.vjp import vjp as vjp

__all__ = [
    "SolveInfo",
    "VjpFn",
    "divergence",
    "fixed_point",
    "grad",
    "hvp",
    "jvp",
    "laplacian",
    "root",
    "value_and_grad",
    "vhp",
    "vjp",
]
