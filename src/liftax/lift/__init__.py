"""The lifted transforms, one family a file, over a Scope, a Module, or a tree of these.

`liftax.nn` has the same objects: `nn.vjp is lift.vjp`.
"""

from liftax.lift.control.checkpoint import checkpoint, remat
from liftax.lift.control.cond import cond, switch
from liftax.lift.control.jit import fold_rngs, jit
from liftax.lift.control.loops import fori_loop, remat_scan, while_loop
from liftax.lift.control.map_variables import add_metadata_axis, map_variables, named_call
from liftax.lift.control.scan import broadcast, scan
from liftax.lift.control.shard_map import shard_map
from liftax.lift.control.vmap import vmap
from liftax.lift.derivatives.gauss_newton import gauss_newton_product
from liftax.lift.derivatives.grad import grad, value_and_grad
from liftax.lift.derivatives.hvp import hvp, vhp
from liftax.lift.derivatives.implicit import fixed_point, root
from liftax.lift.derivatives.jacobian import hessian, jacfwd, jacobian, jacrev
from liftax.lift.derivatives.jvp import jvp
from liftax.lift.derivatives.laplacian import divergence, laplacian
from liftax.lift.derivatives.linearize import linear_transpose, linearize
from liftax.lift.derivatives.stop_gradient import stop_gradient
from liftax.lift.derivatives.vjp import vjp
from liftax.lift.lift_transform import lift_direct_transform, lift_transform
from liftax.lift.machinery.axes import In, Out
from liftax.lift.pack import pack
from liftax.lift.rules.custom_gradient import custom_gradient
from liftax.lift.rules.custom_jvp import custom_jvp
from liftax.lift.rules.custom_vjp import custom_vjp

__all__ = [
    "In",
    "Out",
    "add_metadata_axis",
    "broadcast",
    "checkpoint",
    "cond",
    "custom_gradient",
    "custom_jvp",
    "custom_vjp",
    "divergence",
    "fixed_point",
    "fold_rngs",
    "fori_loop",
    "gauss_newton_product",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jit",
    "jvp",
    "laplacian",
    "lift_direct_transform",
    "lift_transform",
    "linear_transpose",
    "linearize",
    "map_variables",
    "named_call",
    "pack",
    "remat",
    "remat_scan",
    "root",
    "scan",
    "shard_map",
    "stop_gradient",
    "switch",
    "value_and_grad",
    "vhp",
    "vjp",
    "vmap",
    "while_loop",
]
