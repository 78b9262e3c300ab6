"""The Laplacian of a function in one forward pass, and the divergence of a field.

    laplacian  : (R^n -> b) -> R^n -> (b, b)       f(x), sum_i d^2 f / dx_i^2
    divergence : (R^n -> R^n) -> R^n -> (R^n, R)   f(x), sum_i d f_i / dx_i

`laplacian.laplacian` holds the mathematics; `trace` the pass over a program; `varying`, `jacobian` and `pattern` what
is passed on; and the other files the rules of primitives, one kind a file.
"""

from liftax.ad.laplacian.arguments import DIVERGENCE as DIVERGENCE
from liftax.ad.laplacian.arguments import LAPLACIAN as LAPLACIAN
from liftax.ad.laplacian.arguments import check_samples as check_samples
from liftax.ad.laplacian.custom import custom_laplacian as custom_laplacian
from liftax.ad.laplacian.divergence import divergence as divergence
from liftax.ad.laplacian.laplacian import laplacian as laplacian
