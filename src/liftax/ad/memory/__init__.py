"""Memory as a budget: what the backward pass keeps, and what it computes again.

    checkpoint : (a -> b) -> (a -> b)      the same function; its backward pass keeps as little as a budget says
    saved      : (a -> b) -> a -> Report   what is kept now

A function is traced and split in its forward and its linear part (`split`). The forward part is a graph (`graph`), of
which a minimum cut says what to keep at a price for each byte (`cut`); a search finds the price at which a budget is
met (`search`, `plan`). The backward pass is divided into segments that each compute again what they need (`segments`,
`execution`). The bodies of loops are planned by themselves (`loops`).
"""

from liftax.ad.memory.checkpoint import checkpoint as checkpoint
from liftax.ad.memory.report import Report as Report
from liftax.ad.memory.report import Row as Row
from liftax.ad.memory.report import saved as saved
