"""Laplacian rules of one's own, for functions whose derivatives are known in closed form.

    custom_laplacian : (a -> b) -> (a -> b), to which `deflaplacian` gives a rule for `laplacian`

The function is one equation of the program, so that the rule is found wherever it is called, under `jax.vmap` too.
Every other transform sees the function itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from liftax import _compat
from liftax.ad.laplacian.general import aligned, results, shared
from liftax.ad.laplacian.trace import Rule, Step
from liftax.ad.laplacian.varying import is_inexact, second_of
from liftax.errors import CustomRuleError

LaplacianRule = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


class _Called(NamedTuple):
    """A call of a function with a rule: both as functions of arrays, one after another."""

    run: Callable[..., list[Any]]
    rule: Callable[..., tuple[Any, ...]]
    closed: int
    """How many arrays come before the arguments: those that the function closes over."""


class custom_laplacian:
    """Give a function a rule of its own for `laplacian`.

    Use it where a closed form of the derivatives costs less than the program does. Rules are not needed for functions
    with rules of `jax.custom_jvp` and `jax.custom_vjp`: `laplacian` follows these.

    Args:
        fun: A function of trees of arrays, whose results are arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> @lx.custom_laplacian
        ... def square(x):
        ...     return jnp.sum(x**2)
        >>> @square.deflaplacian
        ... def rule(primals, jacobians, laplacians):
        ...     (x,), (dx,), (lx,) = primals, jacobians, laplacians
        ...     first = 2 * jnp.sum(x * dx, axis=1)
        ...     return jnp.sum(x**2), first, 2 * jnp.sum(x * lx) + 2 * jnp.sum(dx**2)
        >>> _, lap = lx.laplacian(lambda x: square(jnp.sin(x)), jnp.array([0.0, 0.5]))
        >>> print(f"{lap:.4f}")
        3.0806
    """

    def __init__(self, fun: Callable[..., Any]):
        self.fun = fun
        self.rule: LaplacianRule | None = None
        functools.update_wrapper(self, fun)

    def deflaplacian(self, rule: LaplacianRule) -> LaplacianRule:
        """Set the rule, and return it.

        Args:
            rule: Called as `rule(primals, jacobians, laplacians)`: tuples of the arguments, of their first derivatives
                with the directions as a leading axis, and of their Laplacians. Returns `(out, jacobian, laplacian)` of
                the structure of the function's result. The number of directions may differ from call to call.
        """
        self.rule = rule
        return rule

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        leaves, treedef = jax.tree.flatten(args)
        leaves = [jnp.asarray(x) for x in leaves]
        structure = jax.tree.structure(jax.eval_shape(self.fun, *args))

        def flat(*leaves: Any) -> list[Any]:
            return jax.tree.leaves(self.fun(*treedef.unflatten(leaves)))

        run, consts = _compat.closed(flat, *leaves)  # what it closes over takes part in derivatives, too
        n = len(consts)
        called = _Called(lambda *all: run(all[:n], *all[n:]), _Rule(self, treedef, structure), n)
        return structure.unflatten(_call().bind(*consts, *leaves, called=called))


class _Rule(NamedTuple):
    """The rule as a function of lists of arrays."""

    owner: custom_laplacian
    arguments: Any
    structure: Any

    def __call__(self, *leaves: Any) -> tuple[Any, ...]:
        name, n = getattr(self.owner, "__name__", "the function"), len(leaves) // 3
        if self.owner.rule is None:
            raise CustomRuleError(
                f"custom_laplacian: {name} has no rule. Define one with @{name}.deflaplacian, or call the function "
                "without custom_laplacian."
            )
        found = self.owner.rule(*(self.arguments.unflatten(leaves[i * n : (i + 1) * n]) for i in range(3)))
        whole = jax.tree.structure((0, 0, 0)).compose(self.structure)
        if jax.tree.structure(found) != whole:
            raise CustomRuleError(
                f"custom_laplacian: the rule of {name} must return a tuple (out, jacobian, laplacian), each of the "
                f"structure of what {name} returns: expected {whole}, got {jax.tree.structure(found)}."
            )
        return tuple([jnp.asarray(x) for x in jax.tree.leaves(part)] for part in found)


def _batched(called: _Called, dims: Sequence[int | None]) -> _Called:
    own = dims[called.closed :]
    inside = [None if d is None else d + 1 for d in own]
    rule = jax.vmap(called.rule, in_axes=(*own, *inside, *own), out_axes=(0, 1, 0))
    return _Called(jax.vmap(called.run, in_axes=tuple(dims)), rule, called.closed)


@functools.cache
def _call() -> Any:
    """Return the primitive of a call: one equation, whose parameter `called` holds the function and the rule."""
    return _compat.opaque_call("custom_laplacian", lambda called: called.run, _batched)


def _custom(step: Step) -> list[Any]:
    called = step.params["called"]
    if step.moving[0] < called.closed:
        raise CustomRuleError(
            "custom_laplacian: the function closes over a value that depends on what the Laplacian is taken in, and "
            "its rule says nothing about it. Pass the value as an argument."
        )
    pattern = shared(step)
    firsts = dict(zip(step.moving, aligned(step, pattern), strict=True))
    values = [jnp.asarray(v) for v in step.values]
    jacobians = [firsts.get(i, jnp.zeros((pattern.slots, *v.shape), v.dtype)) for i, v in enumerate(values)]
    parts = values, jacobians, [second_of(x) for x in step.operands]
    ys, dys, lys = called.rule(*(x for part in parts for x in part[called.closed :]))
    for v, y, dy, ly in zip(step.eqn.outvars, ys, dys, lys, strict=True):
        expected = v.aval.shape, (pattern.slots, *v.aval.shape), v.aval.shape
        if is_inexact(v.aval) and (y.shape, dy.shape, ly.shape) != expected:
            raise CustomRuleError(
                "custom_laplacian: the rule must return the result, its first derivatives and its Laplacian in the "
                f"shapes {', '.join(map(str, expected))}; got {y.shape}, {dy.shape}, {ly.shape}."
            )
    return results(step, ys, dys, lys, pattern)


RULES: dict[str, Rule] = {"custom_laplacian": _custom}
