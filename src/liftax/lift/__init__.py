"""The lifted transforms, one family a file, over a Scope, a Module, or a tree of these.

`liftax.nn` has the same objects: `nn.vjp is lift.vjp`.
"""

from liftax.lift.axes import In, Out
from liftax.lift.checkpoint import checkpoint, remat
from liftax.lift.custom_vjp import custom_vjp
from liftax.lift.grad import grad, value_and_grad
from liftax.lift.jvp import jvp
from liftax.lift.vjp import vjp
from liftax.lift.vmap import vmap

__all__ = ["In", "Out", "checkpoint", "custom_vjp", "grad", "jvp", "remat", "value_and_grad", "vjp", "vmap"]
