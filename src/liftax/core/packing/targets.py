"""Targets: the scopes and modules that a transform is lifted over, and the errors for anything else.

leaves_of    : target -> [scope or module]
reached_from : scope or module -> [(field path, scope, module or Variable or None)]
outermost    : scopes -> those that lie below no other: the roots that are packed
lone_variables : variables of modules around, which are packed one by one
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from liftax import errors
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.explain.transform import Transform
from liftax.typing import Path

_ONE_LEAF = jax.tree.structure(0)


def is_target(x: Any) -> bool:
    """Tell whether `x` is a scope or a `Liftable`."""
    return isinstance(x, Scope) or hasattr(type(x), "lift_parts")


def leaves_of(target: Any, transform: Transform) -> tuple[list[Any], Any]:
    """Return the scopes and modules in `target`, and its structure."""
    if is_target(target):
        return [target], _ONE_LEAF
    leaves, treedef = jax.tree.flatten(target, is_leaf=is_target)
    wrong = [x for x in leaves if not is_target(x)]
    if wrong and isinstance(target, Mapping) and len(wrong) == len(leaves):
        raise errors.TransformTargetError(
            f"{transform}: got a {type(target).__name__} with the keys {list(target)} where a bound Module, a Scope, "
            "or a "
            "tree of these is expected. If these are variables, bind a module to them, module.bind(variables). The "
            f"call is {transform.usage}."
        )
    if other_library(target):  # maybe a pytree
        raise no_target(target, transform)
    if wrong:
        raise no_target(wrong[0], transform)
    if not leaves:
        got = "None" if target is None else f"an empty {type(target).__name__}"
        raise errors.TransformTargetError(
            f"{transform}: got {got} where a bound Module, a Scope, or a tree of these is expected. The call is "
            f"{transform.usage}."
        )
    return leaves, treedef


def reached_from(leaf: Any, transform: Transform) -> list[tuple[Path, Scope, Any]]:
    """Return (field path, scope, what is rebound) for everything that a scope or a module reaches, itself first.

    What is rebound is a module, a `Variable` that a module has as a field, or None for a scope.
    """
    if isinstance(leaf, Scope):
        parts = [((), leaf, None)]
    else:
        if leaf.scope is None:
            raise errors.UnboundModuleError(
                f"{transform}: the module {type(leaf).__name__} is not bound: it holds no variables. Make it inside a "
                "@compact method or assign it in setup, or run this inside init or apply, or bind it with "
                "module.bind(variables)."
            )
        parts = [
            (prefix, part.scope, part)
            for prefix, part in leaf.lift_parts()
            if part.scope is not None and not (isinstance(part, Variable) and part.scope.store.dead)
        ]
    for _, scope, _ in parts:
        if scope.store.dead:
            scope._raise_dead()
    return parts


def outermost(scopes: list[Scope]) -> tuple[Scope, ...]:
    """Drop scopes that lie at or below another one, keeping the order of first appearance."""
    if len(scopes) == 1:
        return (scopes[0],)
    unique = list(dict.fromkeys(scopes))
    return tuple(s for s in unique if not any(t is not s and _below(s, t) is not None for t in unique))


def _below(scope: Scope, top: Scope) -> Path | None:
    n = len(top.names)
    return scope.names[n:] if scope.store is top.store and scope.names[:n] == top.names else None


@dataclasses.dataclass(frozen=True, slots=True)
class Lone:
    """A root that is one variable: a module has it as a field, and the module that it belongs to is not in the target.

    Args:
        scope: the scope that it belongs to.
        col: its collection.
        name: its name.
    """

    scope: Scope
    col: str
    name: str

    def variables(self) -> dict[str, Any]:
        """Return the variable as {collection: tree}."""
        value = self.scope.collection(self.col).get(self.name, self)
        return {} if value is self else {self.col: {self.name: value}}


def lone_variables(found: list[list[tuple[Path, Scope, Any]]], roots: tuple[Scope, ...]) -> tuple[Lone, ...]:
    """Return the variables among what is reached that lie at or below none of the scopes that are packed."""
    lone = (
        Lone(scope, x.collection, x.name)
        for reached in found
        for _, scope, x in reached
        if isinstance(x, Variable) and all(_below(scope, root) is None for root in roots)
    )
    return tuple(dict.fromkeys(lone))


def located(scope: Scope, roots: tuple[Scope, ...]) -> tuple[int, Path]:
    """Return the index of the root at or above a scope, and the path of the scope below it."""
    for i, root in enumerate(roots):
        below = _below(scope, root)
        if below is not None:
            return i, below
    raise AssertionError(f"{scope} lies under none of the packed scopes {roots}")


# --- errors -------------------------------------------------------------------------------------------------------


def no_target(x: Any, transform: Transform) -> errors.TransformTargetError:
    """Return the error for `x` given where a module is expected."""
    got, remedy = type(x).__name__, f"The call is {transform.usage}."
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        got = f"{x.dtype}[{','.join(map(str, x.shape))}]"
    if isinstance(x, type):
        got = f"the class {x.__name__}"
        if hasattr(x, "lift_parts"):
            remedy = f"Give it a module of the class, {x.__name__}(…), that is bound. {remedy}"
    library = other_library(x)
    if library:
        got, remedy = f"{_full_name(x)}, which is of {library},", f"{_ANOTHER} {remedy}"
    return errors.TransformTargetError(
        f"{transform}: got {got} where a bound Module, a Scope, or a tree of these is expected. {remedy}"
    )


def no_class(x: Any, transform: Transform) -> errors.TransformTargetError:
    """Return the error for a module, or a class of modules, of another library that is to be transformed."""
    return errors.TransformTargetError(
        f"{transform}: got {_full_name(x)} to transform, which is of {other_library(x)}. {_ANOTHER}"
    )


_ANOTHER = (
    "liftax transforms its own modules: import the layers and the class Module by `from liftax import nn`, or wrap a "
    "model of another library: liftax.bridge has Linen, NNX, Equinox and Haiku for that."
)


def other_library(x: Any) -> str | None:
    """Return the library of a module, or a class of modules, of another library; None for anything else."""
    cls = x if isinstance(x, type) else type(x)
    if hasattr(cls, "lift_parts"):
        return None
    found = (base.__module__.partition(".")[0] for base in cls.__mro__ if base.__name__ == "Module")
    return next(found, None)


def _full_name(x: Any) -> str:
    cls = x if isinstance(x, type) else type(x)
    return f"{'the class' if cls is x else 'a module'} {cls.__module__}.{cls.__qualname__}"
