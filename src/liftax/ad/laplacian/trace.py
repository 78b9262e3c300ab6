"""The pass over a program: each equation is applied to values that carry their derivatives.

A rule is a function `rule(step) -> results`; `step` holds one equation and its operands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from liftax import _compat
from liftax.ad.laplacian.pattern import Directions, Pattern
from liftax.ad.laplacian.varying import Varying, is_inexact, value_of

Rule = Callable[["Step"], list[Any] | None]
General = Callable[["Step"], list[Any]]


class Pass:
    """The pass over one program.

    Args:
        directions: What derivatives are taken along.
        rules: By the name of a primitive, how it is applied; a rule that returns None leaves the equation to `general`.
        general: The rule of all other primitives.
        curved: Second derivatives matter. In a pass without, they are left out where that saves something.
    """

    def __init__(
        self,
        directions: Directions,
        rules: Mapping[str, Rule],
        general: Callable[["Step"], list[Any]],
        curved: bool = True,
    ):
        self.directions, self.rules, self.general, self.curved = directions, rules, general, curved
        self._made: dict[int, tuple[Any, Any, list[Any], int]] = {}

    def straight(self) -> "Pass":
        """Return a pass over the same directions in which second derivatives do not matter."""
        made = Pass(self.directions, self.rules, self.general, False)
        made._made = self._made
        return made

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Run a jaxpr on values of which some carry derivatives."""
        env: dict[Any, Any] = {}

        def read(v: Any) -> Any:
            return v.val if hasattr(v, "val") else env[v]

        env.update(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            results = self.apply(eqn, [read(v) for v in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def concrete(self, x: Any) -> np.ndarray | None:
        """Return the numbers of a constant of the program; None where they are not known while it is traced."""
        if not _compat.is_tracer(x):
            return np.asarray(x)
        made = self._made.get(id(x))
        if made is None:
            return None
        _, eqn, operands, i = made
        known = [self.concrete(v) for v in operands]
        if any(v is None for v in known):
            return None
        with jax.ensure_compile_time_eval():
            return np.asarray(_compat.run_equation(eqn, known)[i])

    def apply(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """Apply one equation."""
        step = Step(self, eqn, operands)
        if not step.moving or eqn.primitive.name == "stop_gradient" or not any(is_inexact(v.aval) for v in eqn.outvars):
            results = _compat.run_equation(eqn, step.values)
            if not step.moving:
                for i, x in enumerate(results):
                    if _compat.is_tracer(x):
                        self._made[id(x)] = x, eqn, operands, i
            return results
        rule = self.rules.get(eqn.primitive.name)
        results = None if rule is None else rule(step)
        return results if results is not None else self.general(step)


class Step:
    """One equation and its operands.

    Attributes:
        within: The pass.
        eqn: The equation.
        operands: Arrays, and `Varying` values.
        moving: The places of the varying ones.
        values: The operands without derivatives.
    """

    def __init__(self, within: Pass, eqn: Any, operands: Sequence[Any]):
        self.within, self.eqn, self.operands = within, eqn, operands
        self.moving = [i for i, x in enumerate(operands) if isinstance(x, Varying)]
        self.values = [value_of(x) for x in operands]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name

    @property
    def params(self) -> Any:
        """The parameters of the equation."""
        return self.eqn.params

    @property
    def inputs(self) -> list[Varying]:
        """The varying operands."""
        return [self.operands[i] for i in self.moving]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.eqn.outvars[0].aval.shape

    def run(self, *moved: Any) -> list[Any]:
        """Run the equation with other values for the varying operands."""
        return self.run_at(self.moving, moved)

    def run_at(self, places: Sequence[int], moved: Sequence[Any]) -> list[Any]:
        """Run the equation with other values for the operands at the places."""
        full = list(self.values)
        for i, x in zip(places, moved, strict=True):
            full[i] = x
        return _compat.run_equation(self.eqn, full)

    def pattern(self, index: np.ndarray) -> Pattern:
        """Return the pattern of an index."""
        return self.within.directions.pattern(index)

    def union(self, *patterns: Pattern) -> Pattern:
        """Return the pattern of what depends on all that the patterns list."""
        return self.within.directions.union(*patterns)
