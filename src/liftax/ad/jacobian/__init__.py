"""Jacobians and Hessians: whole, a chunk of columns at a time, or by few products where most entries are zero.

    jacobian : (a -> b) -> a -> Jacobian
    hessian  : (a -> R) -> a -> Hessian

`functions` holds the public functions, `products` the matrix made of products with a linear map, and `sparsity` what
the entries that can differ from zero save of it.
"""

from liftax.ad.jacobian.functions import hessian as hessian
from liftax.ad.jacobian.functions import jacfwd as jacfwd
from liftax.ad.jacobian.functions import jacobian as jacobian
from liftax.ad.jacobian.functions import jacrev as jacrev
