"""liftax: automatic differentiation that reaches inside stateful modules.

Two ways in: `from liftax import nn` for modules, with the API of Flax Linen, and `import liftax as lx` for plain
functions (`lx.vjp` and its family).
"""

import importlib
from typing import TYPE_CHECKING, Any

from liftax import ad, core, errors, lift, nn
from liftax.ad import (
    GMRES,
    Anderson,
    Direct,
    Newton,
    Picard,
    checkpoint,
    custom_gradient,
    custom_jvp,
    custom_laplacian,
    custom_vjp,
    divergence,
    fixed_point,
    fori_loop,
    gauss_newton_product,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jvp,
    laplacian,
    linear_transpose,
    linearize,
    recomputed_steps,
    root,
    saved,
    scan,
    stop_gradient,
    value_and_grad,
    vhp,
    vjp,
    while_loop,
)

if TYPE_CHECKING:
    from liftax import bridge

__version__ = "0.1.0"
__all__ = [
    "GMRES",
    "Anderson",
    "Direct",
    "Newton",
    "Picard",
    "ad",
    "bridge",
    "checkpoint",
    "core",
    "custom_gradient",
    "custom_jvp",
    "custom_laplacian",
    "custom_vjp",
    "divergence",
    "errors",
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
    "lift",
    "linear_transpose",
    "linearize",
    "nn",
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


def __getattr__(name: str) -> Any:
    if name == "bridge":  # on demand: few programs need it
        return importlib.import_module("liftax.bridge")
    raise AttributeError(f"module 'liftax' has no attribute {name!r}")
