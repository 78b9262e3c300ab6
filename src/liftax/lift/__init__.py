"""The lifted transforms, one family a file, over a Scope, a Module, or a tree of these.

`liftax.nn` has the same objects: `nn.vjp is lift.vjp`.
"""

from liftax.lift.axes import In, Out
from liftax.lift.checkpoint import checkpoint, remat
from liftax.lift.cond import cond, switch
from liftax.lift.custom_gradient import custom_gradient
from liftax.lift.custom_jvp import custom_jvp
from liftax.lift.custom_vjp import custom_vjp
from liftax.lift.grad import grad, value_and_grad
from liftax.lift.hvp import hvp, vhp
from liftax.lift.implicit import fixed_point, root
from liftax.lift.jacobian import hessian, jacfwd, jacobian, jacrev
from liftax.lift.jit import fold_rngs, jit
from liftax.lift.jvp import jvp
from liftax.lift.laplacian import divergence, laplacian
from liftax.lift.lift_transform import lift_direct_transform, lift_transform
from liftax.lift.linearize import linear_transpose, linearize
from liftax.lift.loops import fori_loop, remat_scan, while_loop
from liftax.lift.map_variables import add_metadata_axis, map_variables, named_call
from liftax.lift.pack import pack
from liftax.lift.scan import broadcast, scan
from liftax.lift.shard_map import shard_map
from liftax.lift.stop_gradient import stop_gradient
from liftax.lift.vjp import vjp
from liftax.lift.vmap import vmap

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
