"""Lifted forward mode: a function of a module and its derivative along one direction, in one sweep.

    jvp : (Module -> a -> b) -> Module -> a -> T a -> T variables -> (b, T b)

One call to `jax.jvp`. Collections that `variable_tangents` names are primals; whatever it leaves out (a collection, a
submodule, a variable) has a tangent of zero.

Source: `jax.jvp`; `flax.linen.jvp` for the signature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax import errors
from liftax.ad.checks import demand_pair, describe, explain_arity, explain_tangents
from liftax.ad.notes import add_note
from liftax.core.pack import Packed, State, is_target, unbind
from liftax.lift.checks import check_filters, check_output, check_primals, check_streams
from liftax.lift.fill import Rule, complete, filled, no_collection
from liftax.typing import Filter


def jvp(
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any,
    variables: Filter = True,
    rngs: Filter = True,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Differentiate a function of a module forwards, along tangents of its variables and its arguments.

    Outside of a module use `lx.jvp` or `jax.jvp` on `module.apply`.

    Args:
        fn: Called as `fn(mdl, *primals)`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        primals: A tuple or list: the arguments.
        tangents: A tuple or list: for each argument a tangent of its structure, shapes and dtypes (`float0` for
            integers).
        variable_tangents: `{collection: tree}`, shaped like the variables of the target, a tree of these for a tree of
            modules. What it leaves out has a tangent of zero: a collection, a submodule, a variable.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.
        has_aux: `fn` returns a pair `(output, aux)`, and `aux` is not differentiated.

    Returns:
        `(primals_out, tangents_out)`, or `(primals_out, tangents_out, aux)` if `has_aux`: the first two of the
        structure, shapes and dtypes of `fn`'s output. For tangents of variables that `fn` wrote, return them from `fn`.

    Raises:
        TangentError: A tangent does not fit its primal or variable, or is for a variable that does not exist.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.param('scale', nn.initializers.ones, ()) * x
        >>> class Velocity(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, v):
        ...         return nn.jvp(lambda mdl, x: mdl(x), Scale(), (x,), (v,), variable_tangents={})
        >>> Velocity().apply({'params': {'Scale_0': {'scale': 2.0}}}, jnp.array([3.0]), jnp.array([1.0]))
        (Array([6.], dtype=float32), Array([2.], dtype=float32))
    """
    if not isinstance(primals, tuple | list) or not isinstance(tangents, tuple | list):
        raise errors.TangentError(
            f"jvp: primals and tangents are tuples or lists with one entry for each argument of the function; got "
            f"{describe(primals)} and {describe(tangents)}. For one argument: jvp(fn, mdl, (x,), (x_t,), …)."
        )
    check_primals(primals, "jvp", values=True)
    named = tuple({col for leaf in _mappings(mdl, variable_tangents) for col, tree in leaf.items() if filled(tree)})
    packed = unbind(mdl, (named, variables), rngs, "jvp")
    check_streams(packed, rngs, "jvp")
    check_filters(packed, "jvp", variables=variables)
    given = packed.view.disassemble(variable_tangents, "jvp: variable_tangents", errors.TangentError)

    def pure(wrt: Any, *args: Any) -> Any:
        with packed.bind((wrt, packed.groups[1]), packed.keys) as inner:
            try:
                out = fn(inner.target, *args)
            except TypeError as error:
                explain_arity(fn, (inner.target, *args), {}, error, "jvp")
                raise
            out, aux = demand_pair(out, "jvp") if has_aux else (out, None)
            check_output(out, "jvp", packed, fn)
            return out, (aux, inner.collect())

    maybe_new = any(scope.store.is_mutable(col) for scope in packed.roots for col in named)
    if not maybe_new:
        _check_collections(packed, given)
    wrt_t = _completed(packed, given, unknown_is_error=not maybe_new)
    try:
        out, out_t, (aux, state) = jax.jvp(pure, (packed.groups[0], *primals), (wrt_t, *tangents), has_aux=True)
    except (TypeError, ValueError) as error:
        explain_tangents(primals, tangents, error)
        add_note(error)
        raise
    if maybe_new:
        _check_collections(packed, given, state)
    if packed.include(state, named):
        wrt_t = _completed(packed, given, unknown_is_error=True)
        out, out_t, (aux, state) = jax.jvp(pure, (packed.groups[0], *primals), (wrt_t, *tangents), has_aux=True)
    elif maybe_new:
        _completed(packed, given, unknown_is_error=True)
    check_filters(packed, "jvp", state, variables=variables)
    packed.commit(state)
    return (out, out_t, aux) if has_aux else (out, out_t)


def _mappings(mdl: Any, variable_tangents: Any) -> list[Mapping[str, Any]]:
    try:
        leaves = jax.tree.structure(mdl, is_leaf=is_target).flatten_up_to(variable_tangents)
    except ValueError:  # it is said later what is wrong
        return []
    return [x for x in leaves if isinstance(x, Mapping)]


def _check_collections(packed: Packed, given: Sequence[Mapping[str, Any]], state: State | None = None) -> None:
    """Raise `TangentError` for a key that is no collection, not even one that the run which wrote `state` created."""
    for i, (scope, tangents) in enumerate(zip(packed.roots, given, strict=True)):
        known = {col: dict(tree) for group in packed.groups for col, tree in group[i].items()}
        for col, name, *_ in state.created[i] if state else ():
            known.setdefault(col, {})[name] = None
        for key, tree in tangents.items():
            if key not in known and filled(tree):
                raise no_collection(key, known, _rule(scope.path_text))


def _rule(where: str, unknown_is_error: bool = True) -> Rule:
    return Rule("jvp: variable_tangents", "tangent", where, errors.TangentError, missing_is_zero=True,
                unknown_is_error=unknown_is_error)  # fmt: skip


def _completed(packed: Packed, given: Sequence[Mapping[str, Any]], unknown_is_error: bool) -> tuple[Any, ...]:
    """Return tangents for all variables in the first group: the given ones, and zeros."""
    return tuple(
        complete(variables, tangents, _rule(scope.path_text, unknown_is_error))
        for variables, tangents, scope in zip(packed.groups[0], given, packed.roots, strict=True)
    )
