"""Lifted custom rules, forwards: a function of a module with a derivative of your own.

    custom_jvp : (Module -> a -> b) -> (Module -> a -> T a -> T variables -> (b, T b)) -> Module -> a -> b

One call to `jax.custom_jvp`. The rule is linear in the tangents, so that JAX transposes it: it serves forward and
reverse mode. What is said in `liftax.lift.rules.custom_vjp` about the time at which JAX traces a rule holds here.

State is an output with a tangent like any other. A rule that was not written for it gives none, which is an error
where someone asks for it: forwards where the tangent is used, backwards where a cotangent reaches it.

Source: `jax.custom_jvp`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from liftax import _compat, errors
from liftax.explain.functions import arity_explained, demand_pair
from liftax.explain.transform import described
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import type_of
from liftax.lift.machinery.complete import Completion, complete, zero
from liftax.lift.machinery.operands import collections
from liftax.lift.machinery.paths import get, nested
from liftax.lift.rules.rule_call import WITH_RULE, RuleCall, checked, refuse_at_run
from liftax.typing import Filter

CUSTOM_JVP = dataclasses.replace(WITH_RULE, name="custom_jvp", call="(fn, jvp_fn)(module, *args)")


@described(CUSTOM_JVP)
def custom_jvp(
    fn: Callable[..., Any],
    jvp_fn: Callable[..., Any],
    grad_vars: Filter = "params",
    nondiff_argnums: int | Sequence[int] = (),
    state_tangents: bool = False,
    wrt: Filter | None = None,
) -> Callable[..., Any]:
    """Give a function of a module a derivative rule of its own, for forward and for reverse mode.

    For a rule that is natural backwards alone (clipped or sign gradients) use `custom_vjp`; outside of a module use
    `jax.custom_jvp`.

    Args:
        fn: Called as `fn(mdl, *args, **kwargs)`: what runs where nothing is differentiated.
        jvp_fn: Called as `jvp_fn(mdl, *nondiff_args, primals, tangents, variable_tangents, **kwargs)`; returns
            `(output, output_tangent)`. `mdl` holds the variables and draws the keys that it has in `fn`; `primals` and
            `tangents` are tuples with one entry for each positional argument that is not in `nondiff_argnums`;
            `variable_tangents` is `{collection: tree}`, the tangents of the variables in `grad_vars`. So
            `nn.jvp(fn, mdl, primals, tangents, variable_tangents)` is what JAX does by itself. The output and the state
            that it writes are those of `fn`. The tangent is linear in the tangents that come in, and None is a tangent
            of zero.
        grad_vars: The collections that the rule is about. The others are constants to it.
        nondiff_argnums: Positions of arguments that have no tangent, counted with the module as 0; negative ones
            count from the end. Keyword arguments have none either.
        state_tangents: `jvp_fn` returns `(output, (output_tangent, state_tangent))`: `state_tangent` is
            `{collection: tree}`, shaped like the variables that were written; what it leaves out is zero.
        wrt: The same as `grad_vars`, by the name that it has in every derivative transform.

    Returns:
        A function with the signature of `fn`, whose first argument is a bound Module, a Scope, or a tree of these.

    Raises:
        AuxError: `jvp_fn` returns no pair.
        TangentError: A tangent that `jvp_fn` returns does not fit.
        StateCotangentError: The tangent of a written variable is used, or its cotangent is not zero, and
            `state_tangents` is False. Where the latter shows only when the compiled program runs, the program fails
            with a `jax.errors.JaxRuntimeError` that holds this text. The tangent of state that leaves a function under
            `nn.jit` is NaN, since whether it is used shows only outside.
        DroppedGradientError: An argument or field without a tangent, or a closure of a function, is differentiated.
        CustomRuleError: `fn` and `jvp_fn` return different outputs, or write different variables.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Rounded(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         def f(mdl, x):
        ...             return jnp.round(mdl(x))
        ...         def straight_through(mdl, primals, tangents, variable_tangents):
        ...             y, y_t = nn.jvp(lambda mdl, x: mdl(x), mdl, primals, tangents, variable_tangents)
        ...             return jnp.round(y), y_t
        ...         return nn.custom_jvp(f, straight_through)(nn.Dense(1), x).sum()
        >>> model, x = Rounded(), jnp.array([2.0, -3.0])
        >>> variables = {'params': {'Dense_0': {'kernel': jnp.full((2, 1), -1.4), 'bias': jnp.zeros(1)}}}
        >>> value, grads = jax.value_and_grad(model.apply)(variables, x)
        >>> print(value, grads['params']['Dense_0']['kernel'].ravel())
        1.0 [ 2. -3.]
    """
    grad_vars = collections(CUSTOM_JVP, wrt, "grad_vars", grad_vars, "params")
    nondiff_argnums = checked(CUSTOM_JVP, nondiff_argnums, fn=fn, jvp_fn=jvp_fn)

    @functools.wraps(fn)
    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = RuleCall(CUSTOM_JVP, fn, mdl, args, kwargs, grad_vars, nondiff_argnums)

        def rule(primals: Any, tangents: Any) -> Any:
            call.refuse_constants(*([not _is_zero(t) for t in constants] for constants in tangents[4:]))
            call.before_rule(*primals)
            moving = wrt_t, diff_t = jax.tree.map(_dense, (tangents[0], tangents[3]), is_leaf=_is_zero)

            def with_tangents(mdl: Any, *args: Any, **kwargs: Any) -> Any:
                nondiff = [args[i - 1] for i in call.fixed]
                given = (mdl, *nondiff, primals[3], diff_t, call.packed.view.assemble(wrt_t))
                wanted = f"jvp_fn(mdl, {'nondiff_arg, ' * len(nondiff)}primals, tangents, variable_tangents)"
                with arity_explained(jvp_fn, given, kwargs, CUSTOM_JVP, wanted):
                    return jvp_fn(*given, **kwargs)

            result, (state, _) = call.run(with_tangents, *primals)
            pair = "(output, (output_tangent, state_tangent))" if state_tangents else "(output, output_tangent)"
            said = {"why": "a rule of its own", "who": "jvp_fn"}
            out, out_t = demand_pair(result, CUSTOM_JVP, pair=pair, **said, remedy="give None for a tangent of zero")
            call.check_alike(out, state.written, "jvp_fn", pair)
            if state_tangents:
                out_t, given = demand_pair(
                    out_t, CUSTOM_JVP, pair="(output_tangent, state_tangent)", why="state_tangents=True", who="jvp_fn",
                    remedy="drop state_tangents=True",
                )  # fmt: skip
                state_t = _given(call, state.written, given)
            else:
                state_t = _untold(call, state.written, moving)
            return (out, state.written), (_checked(call, out, out_t), state_t)

        def with_rule(function: Callable[..., Any]) -> Callable[..., Any]:
            differentiable = jax.custom_jvp(function)
            differentiable.defjvp(rule, symbolic_zeros=True)
            return differentiable

        return call.through(with_rule)

    return called


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _dense(t: Any) -> Any:
    return zero(t) if isinstance(t, SymbolicZero) else t


def _checked(call: RuleCall, out: Any, out_t: Any) -> Any:
    """Return the tangent that a rule gave for its output, complete, or raise."""
    if out_t is None:
        return jax.tree.map(zero, out)
    if found := tree_mismatch(out, out_t, any_for_float0=False):
        raise errors.TangentError(
            f"{call.where}: the tangent that jvp_fn returns does not fit the output"
            f"{found.path and ' at '}{found.path}: expected {found.expected}, got {found.got}.{found.hint}"
        )
    return out_t


def _given(call: RuleCall, written: Sequence[dict[Any, Any]], given: Any) -> Any:
    """Return the tangents that a rule gave for the state, for all that was written."""
    whole = f"{call.where}: the state_tangent that jvp_fn returns"
    roots = call.packed.view.disassemble(given, whole, errors.TangentError)
    how = Completion(whole, "tangent", call.packed.where, errors.TangentError, missing_is_zero=True)
    tangents = []
    for flat, root in zip(written, roots, strict=True):
        tree = complete(nested({path: jax.tree.map(type_of, value) for path, value in flat.items()}), root, how)
        tangents.append({path: get(tree, path) for path in flat})
    return tuple(tangents)


def _untold(call: RuleCall, written: Sequence[dict[Any, Any]], tangents: Any) -> Any:
    """Return tangents for state that the rule says nothing of: they may be dropped, and raise where they are used."""
    moving = [t for t in jax.tree.leaves(tangents) if t.dtype != jax.dtypes.float0]
    source = sum((jnp.sum(t).real.astype(float) for t in moving), start=jnp.zeros(()))

    def tangent(name: str, x: Any) -> Any:
        if not jnp.issubdtype(type_of(x).dtype, jnp.inexact):
            return zero(x)
        like = jnp.broadcast_to(source.astype(type_of(x).dtype), jnp.shape(x))
        return _untold_p().bind(like, jnp.zeros(()), name=name, leaves=call.packed.compiled)

    found = []
    for flat, scope in zip(written, call.packed.roots, strict=True):
        names = {path: f"{'/'.join(path)} at {scope.path_text}" for path in flat}
        found.append({path: jax.tree.map(functools.partial(tangent, names[path]), v) for path, v in flat.items()})
    return tuple(found)


def _text(name: str, how: str) -> str:
    return (
        f"custom_jvp: the variable {name} was written inside the function with the custom rule, and {how}. The rule "
        "gives no tangent for it: the derivative through it would be dropped. Pass state_tangents=True and return "
        "(output, (output_tangent, state_tangent)) from jvp_fn, where None is a state_tangent of zero, or put "
        "jax.lax.stop_gradient around the value."
    )


def _run(x: Any, _: Any, *, name: str, leaves: bool) -> Any:
    return _compat.refused(x, errors.StateCotangentError(_text(name, "its tangent is used")))


def _lower(x: Any, _: Any, *, name: str, leaves: bool) -> Any:
    if leaves:  # the compiled function returns it, and whether it is used shows outside: it is NaN there
        return jnp.full_like(x, jnp.nan)
    raise errors.StateCotangentError(_text(name, "a compiled program asks for its tangent"))


def _transpose(ct: Any, _: Any, *, name: str, leaves: bool) -> Any:
    known, text = _compat.known_zero(ct), _text(name, "a cotangent flows back into it")
    if known is False:
        raise errors.StateCotangentError(text)
    return jnp.zeros_like(ct) if known else refuse_at_run(jnp.any(ct != 0), text).astype(ct.dtype) + 0 * ct


def _batch(size: int, axis: Any, vals: Sequence[Any], dims: Sequence[int | None], params: dict[str, Any]) -> Any:
    return _untold_p().bind(vals[0], jnp.zeros(()), **params), dims[0]


@functools.cache
def _untold_p() -> Any:
    return _compat.linear_in_first(
        "liftax_untold", run=_run, primal=None, transpose=_transpose, batch=_batch, lower=_lower
    )
