"""liftax: automatic differentiation that reaches inside stateful modules.

Two ways in: `from liftax import nn` for modules, with the API of Flax Linen, and `import liftax as lx` for plain
functions (`lx.vjp` and its family).
"""

from liftax import ad, core, errors, lift, nn
from liftax.ad import (
    GMRES,
    Anderson,
    Direct,
    Newton,
    Picard,
    custom_gradient,
    custom_jvp,
    custom_vjp,
    divergence,
    fixed_point,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    laplacian,
    linear_transpose,
    linearize,
    root,
    stop_gradient,
    value_and_grad,
    vhp,
    vjp,
)

__version__ = "0.1.0"
__all__ = [
    "GMRES",
    "Anderson",
    "Direct",
    "Newton",
    "Picard",
    "ad",
    "core",
    "custom_gradient",
    "custom_jvp",
    "custom_vjp",
    "divergence",
    "errors",
    "fixed_point",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jvp",
    "laplacian",
    "lift",
    "linear_transpose",
    "linearize",
    "nn",
    "root",
    "stop_gradient",
    "value_and_grad",
    "vhp",
    "vjp",
]
