"""Derivatives of pure functions: JAX's, with `reduce_axes`, strict checks and errors that name the leaf.

    vjp  : (a -> b) -> a -> (b, CT b -o CT a)
    grad : (a -> R) -> a -> CT a
    jvp  : (a -> b) -> (a, T a) -> (b, T b)

What needs nothing added is JAX's own object under JAX's own name: linear maps and custom rules.

Nothing here knows modules; the transforms in `liftax.lift` are built on these.
"""

from jax import custom_gradient as custom_gradient
from jax import custom_jvp as custom_jvp
from jax import custom_vjp as custom_vjp
from jax import linear_transpose as linear_transpose
from jax import linearize as linearize
from jax.lax import stop_gradient as stop_gradient

from liftax.ad.gauss_newton import gauss_newton_product as gauss_newton_product
from liftax.ad.grad import grad as grad
from liftax.ad.grad import value_and_grad as value_and_grad
from liftax.ad.hvp import hvp as hvp
from liftax.ad.hvp import vhp as vhp
from liftax.ad.implicit import GMRES as GMRES
from liftax.ad.implicit import Anderson as Anderson
from liftax.ad.implicit import Direct as Direct
from liftax.ad.implicit import Newton as Newton
from liftax.ad.implicit import Picard as Picard
from liftax.ad.implicit import SolveInfo as SolveInfo
from liftax.ad.implicit import fixed_point as fixed_point
from liftax.ad.implicit import root as root
from liftax.ad.jacobian import hessian as hessian
from liftax.ad.jacobian import jacfwd as jacfwd
from liftax.ad.jacobian import jacobian as jacobian
from liftax.ad.jacobian import jacrev as jacrev
from liftax.ad.jvp import jvp as jvp
from liftax.ad.laplacian import custom_laplacian as custom_laplacian
from liftax.ad.laplacian import divergence as divergence
from liftax.ad.laplacian import laplacian as laplacian
from liftax.ad.loops import fori_loop as fori_loop
from liftax.ad.loops import recomputed_steps as recomputed_steps
from liftax.ad.loops import scan as scan
from liftax.ad.loops import while_loop as while_loop
from liftax.ad.memory import checkpoint as checkpoint
from liftax.ad.memory import saved as saved
from liftax.ad.vjp import VjpFn as VjpFn
from liftax.ad.vjp import vjp as vjp

__all__ = [
    "GMRES",
    "Anderson",
    "Direct",
    "Newton",
    "Picard",
    "SolveInfo",
    "VjpFn",
    "checkpoint",
    "custom_gradient",
    "custom_jvp",
    "custom_laplacian",
    "custom_vjp",
    "divergence",
    "fixed_point",
    "fori_loop",
    "gauss_newton_product",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "laplacian",
    "linear_transpose",
    "linearize",
    "recomputed_steps",
    "root",
    "saved",
    "scan",
    "stop_gradient",
    "value_and_grad",
    "vhp",
    "vjp",
    "while_loop",
]
