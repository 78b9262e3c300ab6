"""The lifted transforms under the address that they have in Linen, `nn.transforms`: those of `liftax.lift`."""

from liftax.lift import *  # noqa: F403
from liftax.lift import __all__ as __all__
