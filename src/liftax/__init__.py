"""liftax: automatic differentiation that reaches inside stateful modules.

Two ways in: `from liftax import nn` for modules, with the API of Flax Linen, and `import liftax as lx` for plain
functions (`lx.vjp` and its family).
"""

from liftax import ad, core, errors, lift, nn
from liftax.ad import grad, hvp, jvp, value_and_grad, vhp, vjp

__version__ = "0.1.0"
__all__ = ["ad", "core", "errors", "grad", "hvp", "jvp", "lift", "nn", "value_and_grad", "vhp", "vjp"]
