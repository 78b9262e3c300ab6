"""Solutions of equations, and their derivatives by the implicit function theorem.

    fixed_point : (a -> b -> a) -> a -> b -> a     x = f(x, b)
    root        : (a -> b -> a) -> a -> b -> a     f(x, b) = 0

A file for each decision: `equations` holds the two functions and their checks, `solvers` the steps towards a solution,
`iteration` when to stop, `failure` what to do without a solution, `linear` the linear systems, and `derivative` the
implicit function theorem.
"""

from liftax.ad.implicit.equations import fixed_point as fixed_point
from liftax.ad.implicit.equations import root as root
from liftax.ad.implicit.iteration import SolveInfo as SolveInfo
from liftax.ad.implicit.linear import GMRES as GMRES
from liftax.ad.implicit.linear import Direct as Direct
from liftax.ad.implicit.solvers import Anderson as Anderson
from liftax.ad.implicit.solvers import Newton as Newton
from liftax.ad.implicit.solvers import Picard as Picard
