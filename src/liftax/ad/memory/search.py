"""The price at which a goal is met.

    last_that_fits  : network, (Cut -> bool) -> Cut       the highest price, where low prices fit
    first_that_fits : network, (Cut -> bool) -> Cut       the lowest price, where high prices fit

Both bisect. Between the two last prices many values change sides at once, in a deep network those of all its layers;
then a first part of the program is cut at the higher price, the rest at the lower one, and where the two meet is
found by bisection, too. The first part is the one whose values are alive when the least else is: see `segments`.
"""

from collections.abc import Callable, Mapping

from liftax.ad.memory.cut import Cut, Network

LOWEST, HIGHEST = 1e-3, 1e9  # FLOPs a byte
HALVINGS = 18
CLOSE = 1.05  # prices whose ratio is less are one

Fits = Callable[[Cut], bool]
Shares = Callable[[float], Mapping[int, float]]


def no_shares(price: float) -> Mapping[int, float]:
    """Return that each value counts whole."""
    return {}


def last_that_fits(network: Network, fits: Fits) -> Cut:
    """Return the cut of the fewest bytes that fits, where those that compute little again do."""
    over = network.cut(HIGHEST)
    if fits(over):
        return over
    _, best, price, over = _bisected(network, lambda cut: not fits(cut), network.cut(LOWEST), over, no_shares)
    first, last = 0, len(network.graph.flops)
    while best.again != over.again and last - first > 1 + len(network.graph.flops) // 100:
        middle = (first + last) // 2
        cut = network.cut(price / CLOSE, before=middle, price_before=price)
        if fits(cut):
            first, best = middle, cut
        else:
            last = middle
    return best


def first_that_fits(network: Network, fits: Fits, shares: Shares = no_shares) -> tuple[float, Cut] | None:
    """Return the lowest price at which the cut fits, and a cut that fits and computes less again if there is one.

    None if no cut fits.
    """
    best = network.cut(HIGHEST, shares=shares(HIGHEST))
    if not fits(best):
        return None
    lowest = network.cut(0.0)
    if fits(lowest):
        return 0.0, lowest
    low, under, price, best = _bisected(network, fits, lowest, best, shares)
    first, last = 0, len(network.graph.flops)
    while best.again != under.again and last - first > 1 + len(network.graph.flops) // 100:
        middle = (first + last) // 2
        cut = network.cut(low, before=middle, price_before=price, shares=shares(price))
        if fits(cut):
            last, best = middle, cut
        else:
            first = middle
    return price, best


def _bisected(
    network: Network, is_high: Fits, low_cut: Cut, high_cut: Cut, shares: Shares
) -> tuple[float, Cut, float, Cut]:
    low, high = LOWEST, HIGHEST
    for _ in range(HALVINGS):
        if high < CLOSE * low or low_cut.again == high_cut.again:
            break
        middle = (low * high) ** 0.5
        cut = network.cut(middle, shares=shares(middle))
        if cut.again == high_cut.again or (cut.again != low_cut.again and is_high(cut)):
            high, high_cut = middle, cut
        else:
            low, low_cut = middle, cut
    return low, low_cut, high, high_cut
