"""A plan as a program: the forward pass that keeps what was chosen, and the backward pass in segments.

    run      : primals -> (outputs, kept)
    forward  : (kept, tangents) -> tangents of the outputs
    backward : (kept, cotangents of the outputs) -> cotangents

`backward` walks the segments from the last to the first. Each one waits for the cotangents that the one before it has
computed (`jax.lax.optimization_barrier`), computes again what it needs from what is kept, and transposes its steps of
the linear part.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.core

from liftax._compat import plans
from liftax.ad.memory import cost
from liftax.ad.memory.graph import Graph
from liftax.ad.memory.program import is_var, needed, part
from liftax.ad.memory.segments import Segmented, segment_of


@dataclasses.dataclass(eq=False)
class _Segment:
    """A piece of the backward pass.

    Args:
        kept: the kept values that it reads.
        again: a jaxpr from these to the leaves that its steps read.
        leaves: how many leaves there are.
        tangents: the variables of the linear part that it reads.
        linear: a jaxpr from leaves and tangents to `tangents_out`.
        tangents_out: the variables of the linear part that later segments, or the outputs, read.
        delayed: the places in `kept` of what computing again starts from.
    """

    kept: list[Any]
    again: Any
    leaves: list[Any]
    tangents: list[Any]
    linear: Any
    tangents_out: list[Any]
    delayed: list[int]


class Derivative:
    """The derivative of a program by a plan.

    Args:
        graph: the program.
        plan: what is kept, and where the segments are.
        barrier: keep the compiler from computing the values of a segment before it is their turn, or only once.
    """

    def __init__(self, graph: Graph, plan: Segmented, barrier: bool):
        split = graph.split
        self.graph, self.plan, self.barrier = graph, plan, barrier
        self.outputs = len(split.outputs)
        self.flops = sum(map(cost.flops, split.steps)) + sum(graph.flops[i] for i in plan.cut.again)
        self.nonzero = [x is not None for x in split.tangents_out]
        self.types = [x.aval for x in split.tangents_out if x is not None]
        self.tangent_types = [v.aval for v in split.tangents]
        self._kept_in_order = [graph.values[v] for v in sorted(plan.cut.kept)]
        saved = [v for v in self._kept_in_order if graph.made_by[graph.number[v]] >= 0]
        self._inputs = split.program.invars
        self._forward = part(
            split.program,
            needed(split.equations, [*split.outputs, *saved]),
            [*split.constants, *self._inputs],
            [*split.outputs, *saved],
        )
        self._saved = saved
        self._segments = _segments(graph, plan)
        if len(self._segments) == 1 and not plan.cut.again:
            self.barrier = False
        self._narrowed: dict[Any, _Segment] = {}

    def run(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return the outputs, and what is kept."""
        constants = self.graph.split.constants
        out = jax.core.eval_jaxpr(self._forward, (), *constants.values(), *primals)
        there = {**constants, **dict(zip(self._inputs, primals, strict=True))}
        there.update(zip(self._saved, out[self.outputs :], strict=True))
        return out[: self.outputs], [there[v] for v in self._kept_in_order]

    def forward(self, kept: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """Return the tangents of the outputs that have one."""
        there = dict(zip(self._kept_in_order, kept, strict=True))
        moving = dict(zip(self.graph.split.tangents, tangents, strict=True))
        for segment in self._segments:
            leaves = jax.core.eval_jaxpr(segment.again, (), *[there[v] for v in segment.kept])
            out = jax.core.eval_jaxpr(segment.linear, (), *leaves, *[moving[v] for v in segment.tangents])
            moving.update(zip(segment.tangents_out, out, strict=True))
        return [moving[x] for x in self.graph.split.tangents_out if x is not None]

    def backward(self, kept: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """Return the cotangents of the differentiated inputs; None is zero, there and in `cotangents`."""
        there = dict(zip(self._kept_in_order, kept, strict=True))
        found: dict[Any, Any] = {}
        age: dict[Any, int] = {}  # of cotangents: which segment, counted from the last one, has added to it
        out = [x for x in self.graph.split.tangents_out if x is not None]
        for x, ct in zip(out, cotangents, strict=True):
            if ct is not None:
                found[x] = found[x] + ct if x in found else ct
        for index in range(len(self._segments) - 1, -1, -1):
            segment = self._narrow(index, found)
            if segment is None:
                continue
            order = [age.get(v, 0) for v in segment.tangents_out]
            cts = [found.pop(v) for v in segment.tangents_out]
            values = [there[v] for v in segment.kept]
            if self.barrier and segment.delayed:
                values, cts = _delayed(segment, values, cts, max(range(len(cts)), key=order.__getitem__))
            leaves = jax.core.eval_jaxpr(segment.again, (), *values)
            for v, ct in zip(segment.tangents, _transposed(segment, leaves, cts), strict=True):
                found[v] = found[v] + ct if v in found else ct
                age[v] = len(self._segments) - index
        return [found.get(v) for v in self.graph.split.tangents]

    def _narrow(self, index: int, found: dict[Any, Any]) -> _Segment | None:
        """Return the segment with those of its outputs that have a cotangent, and the steps that they need."""
        segment = self._segments[index]
        wanted = [v for v in segment.tangents_out if v in found]
        if len(wanted) == len(segment.tangents_out):
            return segment if wanted else None
        if not wanted:
            return None
        key = (index, *[segment.tangents_out.index(v) for v in wanted])
        if key not in self._narrowed:
            steps = needed(segment.linear.eqns, wanted)
            self._narrowed[key] = _segment(self.graph, steps, set(self._kept_in_order), wanted)
        return self._narrowed[key]


def _transposed(segment: _Segment, leaves: Sequence[Any], cts: Sequence[Any]) -> Sequence[Any]:
    def linear(*tangents: Any) -> Any:
        return jax.core.eval_jaxpr(segment.linear, (), *leaves, *tangents)

    if not segment.tangents:
        return []
    return jax.linear_transpose(linear, *[v.aval for v in segment.tangents])(list(cts))


def _segments(graph: Graph, plan: Segmented) -> list[_Segment]:
    """Distribute the steps of the linear part: each runs as early as what it reads allows."""
    split = graph.split
    steps: list[list[Any]] = [[] for _ in plan.starts]
    for step, place in zip(split.steps, graph.step_place, strict=True):
        steps[segment_of(plan.starts, place)].append(step)
    kept = {graph.values[v] for v in plan.cut.kept}
    found: list[_Segment] = []
    wanted = {x for x in split.tangents_out if x is not None}
    for group in reversed(steps):
        made = dict.fromkeys(v for step in group for v in step.outvars)
        out = [v for v in made if v in wanted]
        if out:
            segment = _segment(graph, group, kept, out)
            wanted.update(segment.tangents)
            found.append(segment)
    return found[::-1]


def _segment(graph: Graph, steps: list[Any], kept: set[Any], out: list[Any]) -> _Segment:
    reads = graph.split.reads
    made = {v for step in steps for v in step.outvars}
    read = dict.fromkeys(x for step in steps for x in step.invars if is_var(x) and x not in made)
    leaves = [x for x in read if x in reads]
    tangents = [x for x in read if x not in reads]
    atoms = [reads[x] for x in leaves]
    numbers = graph.needed({graph.number[v] for v in kept}, [graph.number[x] for x in atoms if is_var(x)])
    again = [graph.split.equations[i] for i in numbers]
    computed = {v for eqn in again for v in eqn.outvars} - kept
    wanted = [x for eqn in again for x in eqn.invars] + atoms
    inputs = list(dict.fromkeys(x for x in wanted if is_var(x) and x not in computed))
    delayed = _starts(graph, again, computed, inputs)
    again = [_renamed(eqn, kept) for eqn in again]
    return _Segment(
        inputs,
        part(graph.split.program, again, inputs, atoms),
        leaves,
        tangents,
        part(graph.split.linear, steps, [*leaves, *tangents], out),
        out,
        delayed,
    )


def _starts(graph: Graph, again: Sequence[Any], computed: set[Any], inputs: list[Any]) -> list[int]:
    """Return the places in `inputs` of what the equations start from: computed values, or else inputs."""
    found = set()
    for eqn in again:
        read = [x for x in eqn.invars if is_var(x) and x not in graph.split.constants]
        made = [x for x in read if graph.made_by[graph.number[x]] >= 0]
        found.update(x for x in made if x not in computed)
        if not made and read:
            found.add(min(read, key=lambda x: graph.bytes[graph.number[x]]))
    return [i for i, x in enumerate(inputs) if x in found]


def _renamed(eqn: Any, kept: set[Any]) -> Any:
    """Give outputs that are kept anyway, of an equation that runs for its other ones, names that nothing reads."""
    if kept.isdisjoint(eqn.outvars):
        return eqn
    return eqn.replace(outvars=[plans.fresh_variable(v) if v in kept else v for v in eqn.outvars])


def _delayed(segment: _Segment, values: Sequence[Any], cts: Sequence[Any], last: int) -> tuple[list[Any], list[Any]]:
    """Make what the segment starts from available only when the last of its cotangents is.

    One cotangent is enough: XLA takes long to compile chains of barriers that many values go through. The outputs of a
    barrier vary over all mesh axes that one of its operands varies over, so values of other types wait for another
    value.
    """
    values, cts = list(values), list(cts)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in segment.delayed:
        groups[plans.manual_axes(values[i])].append(i)
    for kind, places in groups.items():
        fitting = [k for k in range(len(cts)) if plans.manual_axes(cts[k]) == kind]
        which = last if last in fitting else next(iter(fitting), None)
        waits = [] if which is None else [cts[which]]
        out = jax.lax.optimization_barrier([*[values[i] for i in places], *waits])
        for i, x in zip(places, out, strict=False):
            values[i] = x
        if which is not None:
            cts[which] = out[-1]
    return values, cts
