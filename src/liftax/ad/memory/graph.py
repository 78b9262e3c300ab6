"""The forward part of a program as a graph: who reads what, what it takes to keep and to run again.

Values and equations are numbers here. An equation's number is its place in the program; a value's is one of `values`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from liftax.ad.memory import cost
from liftax.ad.memory.program import is_var
from liftax.ad.memory.split import Split

SMALL = 1024  # bytes; not worth the attention of the search


@dataclasses.dataclass(eq=False)
class Graph:
    """The graph of a split program.

    Args:
        split: the program.
        carried: the inputs that take memory of their own to keep: what a loop carries is another value in each step.
        may_keep: tells whether a value may be kept; None if each may.
        times: how often the program runs and all that it keeps is alive together: the length of a loop around it.
    """

    split: Split
    carried: frozenset[Any] = frozenset()
    times: int = 1
    may_keep: Callable[[int], bool] | None = None
    values: list[Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        split = self.split
        self.values, self.number = [], {}
        for v in (*split.program.invars, *split.constants):
            self._add(v)
        self.first = len(self.values)  # values before it are inputs and constants
        self.made_by = [-1] * self.first
        for i, eqn in enumerate(split.equations):
            for v in eqn.outvars:
                self._add(v)
                self.made_by.append(i)
        eqns = split.equations
        self.reads = [sorted({self.number[x] for x in eqn.invars if is_var(x)}) for eqn in eqns]
        self.makes = [[self.number[v] for v in eqn.outvars] for eqn in eqns]
        self.bytes = [cost.nbytes(v.aval) for v in self.values]
        self.free = [i < self.first and v not in self.carried for i, v in enumerate(self.values)]
        self.flops = [cost.flops(eqn) for eqn in eqns]
        self.view = [eqn.primitive.name in cost.VIEWS for eqn in eqns]
        self.traffic = [0 if v else sum(self.bytes[x] for x in m) for v, m in zip(self.view, self.makes, strict=True)]
        self.repeatable = [cost.is_repeatable(eqn) for eqn in eqns]
        self.cheap = [ok and cost.is_cheap(eqn) for ok, eqn in zip(self.repeatable, eqns, strict=True)]
        self._read_by_the_linear_part()

    def _add(self, v: Any) -> None:
        self.number[v] = len(self.values)
        self.values.append(v)

    def _read_by_the_linear_part(self) -> None:
        """Find for each step of the linear part the leaves that it reads, and the place where it belongs.

        A step belongs behind the last equation of the forward part that it, or a step that it depends on, reads from.
        """
        split = self.split
        self.step_reads: list[list[int]] = []
        self.step_place: list[int] = []
        place = dict.fromkeys(split.tangents, 0)
        for step in split.steps:
            found, at = [], 0
            for x in step.invars:
                if not is_var(x):
                    continue
                if x in place:
                    at = max(at, place[x])
                elif is_var(split.reads[x]):
                    found.append(self.number[split.reads[x]])
                    at = max(at, self.made_by[found[-1]])
            self.step_reads.append(found)
            self.step_place.append(at)
            place.update(dict.fromkeys(step.outvars, at))

    @functools.cached_property
    def leaves(self) -> list[int]:
        """The values that the linear part reads: what plain differentiation keeps."""
        found = {v for reads in self.step_reads for v in reads}
        out = [self.split.reads.get(x) for x in self.split.tangents_out if x is not None]
        return sorted(found | {self.number[x] for x in out if x is not None and is_var(x)})

    @functools.cached_property
    def total_flops(self) -> int:
        """The FLOPs of a derivative that keeps all leaves: of the forward and of the linear part."""
        return sum(self.flops) + sum(map(cost.flops, self.split.steps))

    def kept_bytes(self, kept: Any) -> int:
        """The bytes that keeping the values `kept` takes; inputs and constants are there anyway."""
        return self.times * sum(self.bytes[v] for v in kept if not self.free[v])

    def needed(self, kept: set[int], wanted: Any) -> list[int]:
        """Return the equations to run, in order, to get the values `wanted` from those `kept`."""
        run: set[int] = set()
        todo = [v for v in wanted if v not in kept]
        while todo:
            i = self.made_by[todo.pop()]
            if i >= 0 and i not in run:
                run.add(i)
                todo.extend(v for v in self.reads[i] if v not in kept)
        return sorted(run)
