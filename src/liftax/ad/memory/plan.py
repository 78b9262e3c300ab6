"""Plans: how much to keep, so that a budget of bytes, or of FLOPs, is met.

    Goal : (program, which inputs are differentiated) -> Derivative

In a loop bytes and FLOPs are both multiplied by its length, so that one price for a byte serves the loop and what is
around it. With a budget of bytes the program is split twice if there are loops in it: once to see what their bodies
would keep at each price (`Region`), and once with bodies that are planned at the price that was found. With a budget
of FLOPs each body gets its share of them, and is planned on its own.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from liftax._compat import plans
from liftax.ad.memory.budget import in_words
from liftax.ad.memory.cut import Cut, Network
from liftax.ad.memory.execution import Derivative
from liftax.ad.memory.graph import Graph
from liftax.ad.memory.loops import planned_bodies
from liftax.ad.memory.search import HIGHEST, first_that_fits, last_that_fits
from liftax.ad.memory.segments import Segmented, segmented
from liftax.ad.memory.split import split
from liftax.errors import BudgetError

FREE = 0.019
"""The share of FLOPs that counts as next to nothing."""


class _Planner:
    """What makes the derivative of a program, once for each program."""

    def derivative(self, jaxpr: Any, nonzero: Sequence[bool]) -> Derivative:
        """Return the derivative of a program, with respect to the inputs where `nonzero` is True."""
        known = _derivatives.setdefault(jaxpr, {})
        key = (self, tuple(nonzero))
        if key not in known:
            known[key] = self.planned(jaxpr, nonzero)
        return known[key]

    def planned(self, jaxpr: Any, nonzero: Sequence[bool]) -> Derivative:
        raise NotImplementedError


_derivatives: "weakref.WeakKeyDictionary[Any, dict[Any, Derivative]]" = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Goal(_Planner):
    """What a plan is to achieve. Equal goals make equal plans.

    Args:
        bytes: the most that may be kept, None for any.
        share: the same as a share of what plain differentiation keeps.
        recompute: the most FLOPs in addition, as a share of those of the plain derivative; None for any.
        barrier: whether segments wait for each other.
        policy: which values may be kept, called as `jax.checkpoint` calls it; None for all.
    """

    bytes: int | None = None
    share: float | None = None
    recompute: float | None = 0.0
    barrier: bool = True
    policy: Callable[..., bool] | None = None

    def planned(self, jaxpr: Any, nonzero: Sequence[bool]) -> Derivative:
        """Make the derivative."""
        if self.bytes is not None or self.share is not None:
            return _within_bytes(self, jaxpr, nonzero)
        graph = Graph(split(jaxpr, nonzero, planned_bodies(lambda carried, times: (Body(self, carried, times), ""))))
        return Derivative(graph, _within_flops(self.network(graph), self), self.barrier)

    def network(self, graph: Graph) -> Network:
        """Return the network whose cuts are the choices that the goal allows."""
        heavy = self.recompute is None or self.recompute > 0
        graph.may_keep = _permitted(self.policy, graph)
        return Network(graph, heavy)


@dataclasses.dataclass(frozen=True)
class Body(_Planner):
    """The plan of the body of a loop.

    Args:
        goal: that of the program around the loop.
        carried: the indices of the inputs that the loop carries.
        times: the number of steps.
        price: FLOPs for a byte; None to meet the goal's share of FLOPs.
        seen: if given, keep everything, and note here what could be kept.
    """

    goal: Goal
    carried: frozenset[int]
    times: int
    price: float | None = None
    seen: "tuple[str, _Seen] | None" = None

    def planned(self, jaxpr: Any, nonzero: Sequence[bool]) -> Derivative:
        """Make the derivative."""
        inner = _Seen()

        def plan_of_body(carried: frozenset[int], times: int) -> tuple[Any, str]:
            if self.seen is not None:
                return inner.body(self.goal, carried, times)
            return Body(self.goal, carried, times, self.price), ""

        carried = frozenset(jaxpr.invars[i] for i in self.carried)
        graph = Graph(split(jaxpr, nonzero, planned_bodies(plan_of_body)), carried, self.times)
        network = self.goal.network(graph)
        if self.seen is not None:
            name, seen = self.seen
            seen.regions[name] = Region(network, inner)
            plan = Segmented(network.cut(0.0), (0,), 0)
        elif self.price is None:
            plan = _within_flops(network, self.goal)
        else:
            plan = segmented(graph, network.cut(self.price))
        return Derivative(graph, plan, self.goal.barrier and len(plan.starts) > 1)


@dataclasses.dataclass(eq=False)
class _Seen:
    """The bodies of the loops that were seen while a program was split, by a name that their loops carry."""

    regions: "dict[str, Region]" = dataclasses.field(default_factory=dict)
    numbers: Any = dataclasses.field(default_factory=itertools.count)

    def body(self, goal: Goal, carried: frozenset[int], times: int) -> tuple[Body, str]:
        name = f"loop_{next(self.numbers)}_of_plan"
        return Body(goal, carried, times, seen=(name, self)), name


class Region:
    """A program whose loops keep everything, and what they would keep at each price.

    Args:
        network: that of the program.
        seen: the bodies of its loops.
    """

    def __init__(self, network: Network, seen: _Seen):
        self.network = network
        self._shares: dict[float, dict[int, float]] = {}
        graph = network.graph
        leaves = set(graph.leaves)
        self._loops: list[tuple[Region, list[int]]] = []
        for i, eqn in enumerate(graph.split.equations):
            if eqn.primitive.name == "scan":
                names = str(eqn.source_info.name_stack)
                stacked = [v for v in graph.makes[i] if v in leaves]
                self._loops += [(region, stacked) for name, region in seen.regions.items() if name in names]

    def shares(self, price: float) -> dict[int, float]:
        """Return for what is stacked over the steps of loops the share of it that they would keep."""
        if price not in self._shares:
            self._shares[price] = {
                v: region.kept(price) / max(1, region.plain) for region, stacked in self._loops for v in stacked
            }
        return self._shares[price]

    @property
    def plain(self) -> int:
        """The bytes that plain differentiation keeps."""
        return self.network.graph.kept_bytes(self.network.graph.leaves)

    def kept(self, price: float) -> float:
        """Return the bytes kept at a price."""
        return self.bytes(self.network.cut(price, shares=self.shares(price)), price)

    def bytes(self, cut: Cut, price: float) -> float:
        """Return the bytes that a cut keeps if the loops are planned at a price."""
        graph, shares = self.network.graph, self.shares(price)
        return graph.times * sum(graph.bytes[v] * shares.get(v, 1.0) for v in cut.kept if not graph.free[v])

    @property
    def has_loops(self) -> bool:
        """Whether there are loops with a planned body."""
        return bool(self._loops)


def _permitted(policy: Callable[..., bool] | None, graph: Graph) -> Callable[[int], bool] | None:
    if policy is None:
        return None
    kept = []
    for eqn in graph.split.equations:
        verdict = policy(eqn.primitive, *[x.aval for x in eqn.invars], **eqn.params)
        kept.append(verdict is True or type(verdict).__name__ == "SaveableType")
    return lambda v: kept[graph.made_by[v]]


def _within_flops(network: Network, goal: Goal) -> Segmented:
    """Return the plan that keeps the fewest bytes with the FLOPs that the goal grants."""
    graph = network.graph
    limit = (goal.recompute or FREE) * graph.total_flops
    return segmented(graph, last_that_fits(network, lambda cut: sum(graph.flops[i] for i in cut.again) <= limit))


def _within_bytes(goal: Goal, jaxpr: Any, nonzero: Sequence[bool]) -> Derivative:
    """Return the derivative of the fewest FLOPs that keeps no more than the goal allows."""
    seen = _Seen()
    first = split(jaxpr, nonzero, planned_bodies(lambda carried, times: seen.body(goal, carried, times)))
    region = Region(goal.network(Graph(first)), seen)
    limit = goal.bytes if goal.bytes is not None else int((goal.share or 0.0) * region.plain)
    if not region.has_loops:
        found = _search(region.network, goal, limit)
        if found is None:
            raise _too_small(region.network, limit)
        return Derivative(region.network.graph, found, goal.barrier)
    whole = _search(region.network, goal, limit)  # with bodies that keep everything: whole loops run again
    price, network = _price_of_loops(region, limit), region.network
    for _ in range(4):
        again = split(jaxpr, nonzero, planned_bodies(lambda carried, times: (Body(goal, carried, times, price), "")))  # noqa: B023
        network = goal.network(Graph(again))
        found = _search(network, goal, limit)
        if found is not None:
            if whole is not None and _all_flops(region.network.graph, whole) < 0.9 * _all_flops(network.graph, found):
                return Derivative(region.network.graph, whole, goal.barrier)
            return Derivative(network.graph, found, goal.barrier)
        price = min(max(4 * price, 1.0), HIGHEST) if price < HIGHEST / 100 else HIGHEST
    raise _too_small(network, limit)


def _price_of_loops(region: Region, limit: int) -> float:
    low, high = 1e-3, HIGHEST
    if region.kept(0.0) <= limit:
        return 0.0
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if region.kept(middle) <= limit else (middle, high)
        if high < 1.02 * low:
            break
    return high


def _search(network: Network, goal: Goal, limit: int) -> Segmented | None:
    """Return the plan of the fewest FLOPs that keeps no more than `limit` bytes; None if there is none.

    The memory that segments need counts first: only where no cut leaves room to keep something for their sake, they are
    as large as they have to be.
    """
    graph = network.graph

    def fits(cut: Cut) -> bool:
        if graph.kept_bytes(cut.kept) > limit:
            return False
        return graph.kept_bytes(segmented(graph, cut).cut.kept) <= limit

    found = first_that_fits(network, fits)
    if found is not None:
        plan = segmented(graph, found[1])
    else:
        found = first_that_fits(network, lambda cut: graph.kept_bytes(cut.kept) <= limit)
        plan = None if found is None else segmented(graph, found[1], limit)
    more = 0.0 if plan is None else _flops(graph, plan.cut) / max(1, graph.total_flops)
    if goal.recompute and more > goal.recompute:
        raise BudgetError(
            f"checkpoint: to keep no more than {in_words(limit)} takes {more:.1%} more FLOPs than the plain one, "
            f"and recompute={goal.recompute} allows {goal.recompute:.1%}. Raise one of the two."
        )
    return plan


def _all_flops(graph: Graph, plan: Segmented) -> int:
    return graph.total_flops + _flops(graph, plan.cut)


def _flops(graph: Graph, cut: Cut) -> int:
    return sum(graph.flops[i] for i in cut.again)


def _too_small(network: Network, limit: int) -> BudgetError:
    """Return the error for a budget that no plan meets: the smallest that one meets, and what holds it up."""
    graph = network.graph
    kept = [v for v in network.cut(HIGHEST).kept if not graph.free[v]]
    lines = []
    for v in sorted(kept, key=lambda v: -graph.bytes[v])[:5]:
        eqn = graph.split.equations[graph.made_by[v]] if graph.made_by[v] >= 0 else None
        if eqn is None:
            what = "what a loop carries"
        else:
            why = "costs more than recompute=0 allows" if graph.repeatable[graph.made_by[v]] else "can't run twice"
            what = (
                f"{eqn.primitive.name} {'at ' + plans.source_line(eqn) if plans.source_line(eqn) else ''}, which {why}"
            )
        lines.append(f"{in_words(graph.bytes[v] * graph.times)}: {graph.values[v].aval.str_short()} of {what}")
    least = graph.kept_bytes(kept)
    return BudgetError(
        f"checkpoint: got a budget of {limit} bytes, and every plan keeps {least} bytes ({in_words(least)}) or more. "
        f"Give it at least budget={least}. What is kept in any case:\n  " + "\n  ".join(lines)
    )
