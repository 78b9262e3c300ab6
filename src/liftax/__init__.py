"""liftax: automatic differentiation that reaches inside stateful modules.

Two ways in: `from liftax import nn` for modules, with the API of Flax Linen, and `import liftax as lx` for plain
functions (`lx.vjp` and its family).
"""

from liftax import ad, core, errors, lift, nn
from liftax.ad import divergence, fixed_point, grad, hvp, jvp, laplacian, root, value_and_grad, vhp, vjp

__version__ = "0.1.0"
__all__ = [
    "ad",
    "core",
    "divergence",
    "errors",
    "fixed_point",
    "grad",
    "hvp",
    "jvp",
    "laplacian",
    "lift",
    "nn",
    "root",
    "value_and_grad",
    "vhp",
    "vjp",
]
