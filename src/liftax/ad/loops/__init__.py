"""Loops that can be differentiated backwards, in the memory of as many carries as one likes.

    while_loop, fori_loop, scan : as in `jax.lax`, with `checkpoints`, the number of carries to keep

A call becomes a `Program`, flat and closed (`call`, `program`). Its derivatives (`derivative`) are, forwards, the
program of values and tangents; backwards, `forward`, which keeps carries, and `reverse`, which uses them. `schedule`
says which to keep, and `batching` what `vmap` makes of all this.
"""

from liftax.ad.loops.scan import scan as scan
from liftax.ad.loops.schedule import recomputed_steps as recomputed_steps
from liftax.ad.loops.while_loop import fori_loop as fori_loop
from liftax.ad.loops.while_loop import while_loop as while_loop

__all__ = ["fori_loop", "recomputed_steps", "scan", "while_loop"]
