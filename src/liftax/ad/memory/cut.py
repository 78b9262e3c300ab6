"""What to keep, as a minimum cut between what is there and what the backward pass reads.

Each value can be kept, which takes its bytes times a price, or computed again, which takes the FLOPs of its equation
and that the values it reads be there too. The cheapest choice for the whole program is a minimum cut of the graph

    source --FLOPs--> equation --bytes * price--> value --> equations that read it        and --> sink, if it is a leaf

where an edge without a capacity can't be cut. What is cut in front of an equation is computed again; what is cut behind
it is kept. At a price of 0 all leaves are kept; the higher the price, the fewer bytes, and the more FLOPs.

The flow is computed by SciPy, which JAX depends on, with whole numbers of 32 bits: capacities are scaled.

Source: Chen et al., "Training deep nets with sublinear memory cost" (2016); for the cut, the partitioner of PyTorch's
AOTAutograd (He, "Min-cut optimal(*) recomputation", 2022).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from liftax.ad.memory.graph import Graph

FINITE = 1 << 29
ENDLESS = 1 << 30
TRAFFIC = 0.01  # FLOPs for each byte that running an equation again writes: what moves numbers about isn't free


@dataclasses.dataclass(frozen=True)
class Cut:
    """A choice of what to keep.

    Args:
        kept: the values of the forward part that are kept, inputs that the backward pass reads among them.
        again: the equations that are run again, in order.
    """

    kept: frozenset[int]
    again: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Network:
    """The network of a graph, of which cuts are taken at different prices.

    Args:
        graph: what is cut.
        heavy: whether matrix products, loops and their like may be run again.
    """

    graph: Graph
    heavy: bool

    def __post_init__(self) -> None:
        graph = self.graph
        self.equations = graph.needed(set(), graph.leaves)
        ran = set(self.equations)
        used = {v for i in self.equations for v in graph.reads[i]} | set(graph.leaves)
        self.values = sorted(v for v in used if graph.made_by[v] in ran or not graph.free[v])
        node = {v: 2 + len(ran) + k for k, v in enumerate(self.values)}
        place = {i: 2 + k for k, i in enumerate(self.equations)}
        edges: list[tuple[int, int]] = [(0, place[i]) for i in self.equations]
        edges += [(place[graph.made_by[v]] if graph.made_by[v] >= 0 else 0, node[v]) for v in self.values]
        edges += [(node[v], place[i]) for i in self.equations for v in graph.reads[i] if v in node]
        edges += [(node[v], 1) for v in graph.leaves if v in node]
        self._size = 2 + len(ran) + len(self.values)
        again = [graph.repeatable[i] and (self.heavy or graph.cheap[i]) for i in self.equations]
        self._again = np.array([graph.flops[i] + TRAFFIC * graph.traffic[i] for i in self.equations], float)
        self._again[~np.array(again, bool)] = np.inf
        self._bytes = np.array([graph.bytes[v] for v in self.values], float)
        if graph.may_keep is not None:
            self._bytes[[not graph.may_keep(v) and graph.made_by[v] >= 0 for v in self.values]] = np.inf
        self._made_by = np.array([graph.made_by[v] for v in self.values], int)
        self._ends = np.array(edges, np.int64).reshape(-1, 2)

    @functools.cached_property
    def _rows(self) -> tuple[Any, Any, Any]:
        """The edges in the order of a sparse matrix: which is where, columns, and where each row begins."""
        order = np.lexsort((self._ends[:, 1], self._ends[:, 0]))
        starts = np.searchsorted(self._ends[order, 0], np.arange(self._size + 1))
        return order, self._ends[order, 1].astype(np.int32), starts.astype(np.int32)

    def cut(
        self,
        price: float,
        *,
        before: int = 0,
        price_before: float | None = None,
        shares: Mapping[int, float] | None = None,
    ) -> Cut:
        """Return the cheapest choice.

        Args:
            price: FLOPs that it is worth to keep one byte less.
            before: values of equations before this one have a price of their own.
            price_before: that price.
            shares: values of which only this share of the bytes counts.
        """
        from scipy.sparse import csr_array  # on demand: few programs plan
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        if not self.equations:
            return self._choice(lambda i: False)
        prices = np.full(len(self.values), price)
        if price_before is not None:
            prices[self._made_by < before] = price_before
        if shares:
            prices *= [shares.get(v, 1.0) for v in self.values]
        keep = np.where(np.isfinite(self._bytes), np.nan_to_num(self._bytes, posinf=0.0) * prices, np.inf)
        capacities = np.concatenate([self._again, keep])
        finite = np.isfinite(capacities)
        scale = FINITE / max(capacities[finite].sum(), 1.0)
        whole = np.full(len(self._ends), ENDLESS, np.int64)
        whole[: len(capacities)][finite] = np.maximum(1, np.rint(capacities[finite] * scale))
        order, columns, starts = self._rows
        shape = (self._size, self._size)
        network = csr_array((whole[order].astype(np.int32), columns, starts), shape=shape)
        left = network - maximum_flow(network, 0, 1).flow
        left.data = np.maximum(left.data, 0)
        left.eliminate_zeros()
        there = np.zeros(self._size, bool)
        there[breadth_first_order(left, 0, return_predecessors=False)] = True
        kept = dict(zip(self.equations, there[2:], strict=False))
        return self._choice(lambda i: not kept[i])

    def _choice(self, is_run_again: Callable[[int], bool]) -> Cut:
        return choice(self.graph, is_run_again)


def choice(graph: Graph, is_run_again: Callable[[int], bool], leaves: Sequence[int] | None = None) -> Cut:
    """Walk back from the leaves: what is not run again is kept."""
    kept, again, seen = set(), set(), set()
    todo = list(graph.leaves if leaves is None else leaves)
    while todo:
        v = todo.pop()
        if v in seen:
            continue
        seen.add(v)
        i = graph.made_by[v]
        if i < 0 or not is_run_again(i):
            kept.add(v)
        elif i not in again:
            again.add(i)
            todo.extend(graph.reads[i])
    return Cut(frozenset(kept), tuple(sorted(again)))
