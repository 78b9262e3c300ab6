"""Lifted custom rules: a function of a module with a backward rule of your own.

    custom_vjp : (Module -> a -> b) -> (Module -> a -> (b, r)) -> (r -> CT b -> (CT variables, CT a))
                 -> Module -> a -> b

One call to `jax.custom_vjp`. JAX traces the forward rule when it differentiates, which may be long after the call: in
`grad(jit(f))` the function is traced first, the rule later. So everything the rule needs enters as an argument (every
collection, every key) or was kept at the call (rng counters, the context of the module call), and state comes out as
an output. Both runs thus see the same variables and draw the same keys.

State is an output with a cotangent like any other, and a rule that was not written for it would drop it. That is an
error here, unless the cotangent is zero or the rule asks for it.

Source: `jax.custom_vjp`; `flax.linen.custom_vjp` for the signature.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from liftax import _compat, errors
from liftax.ad.notes import noted
from liftax.core.packing.packed import Packed
from liftax.explain.functions import arity_explained, demand_pair
from liftax.explain.transform import Transform, described
from liftax.explain.trees import tree_mismatch
from liftax.explain.values import describe, type_of
from liftax.lift.machinery.arrays import split
from liftax.lift.machinery.complete import Completion, complete, zero
from liftax.lift.machinery.operands import collections
from liftax.lift.machinery.paths import nested
from liftax.lift.rules.rule_call import WITH_RULE, RuleCall, checked, refuse_at_run
from liftax.typing import Filter, Path

CUSTOM_VJP = dataclasses.replace(WITH_RULE, name="custom_vjp", call="(fn, forward_fn, backward_fn)(module, *args)")


@described(CUSTOM_VJP)
def custom_vjp(
    fn: Callable[..., Any],
    forward_fn: Callable[..., Any],
    backward_fn: Callable[..., Any],
    grad_vars: Filter = "params",
    nondiff_argnums: int | Sequence[int] = (),
    state_cotangents: bool = False,
    wrt: Filter | None = None,
) -> Callable[..., Any]:
    """Give a function of a module a backward rule of its own.

    Outside of a module use `jax.custom_vjp`.

    Args:
        fn: Called as `fn(mdl, *args, **kwargs)`: what runs where nothing is differentiated.
        forward_fn: Called with the same arguments as `fn`; returns `(output, residuals)`. Residuals are a tree of
            arrays, of backward maps that `nn.vjp` returned, and of whatever else the backward rule needs.
        backward_fn: Called as `backward_fn(*nondiff_args, residuals, out_ct)`; returns `(variables_ct, *args_ct)`:
            `variables_ct` is shaped like the variables in `grad_vars`, as `nn.vjp` gives them, and there is one
            cotangent for each positional argument that is not in `nondiff_argnums`. None is a cotangent of zero. The
            module is not available in it; put what it needs, such as `mdl.variables`, into the residuals.
        grad_vars: The collections that the rule gives a cotangent. The others are constants to it: theirs is zero.
        nondiff_argnums: Positions of arguments that get no cotangent, counted with the module as 0; negative ones
            count from the end. Keyword arguments get none either.
        state_cotangents: Call `backward_fn(*nondiff_args, residuals, out_ct, state_ct)`: `state_ct` holds the
            cotangents of the variables that were written, shaped like them: `{'batch_stats': …}`.
        wrt: The same as `grad_vars`, by the name that it has in every derivative transform.

    Returns:
        A function with the signature of `fn`, whose first argument is a bound Module, a Scope, or a tree of these.

    Raises:
        AuxError: `forward_fn` returns no pair.
        CotangentError: `backward_fn` returns cotangents that do not fit.
        StateCotangentError: The cotangent of a written variable is not zero, and `state_cotangents` is False. Where
            that shows only when the compiled program runs (the carry of a scan, a branch of a cond, state that comes
            out of a jitted function), the program fails with a `jax.errors.JaxRuntimeError` that holds this text.
        DroppedGradientError: What gets no cotangent is differentiated: an argument, a field, or a value closed over.
        CustomRuleError: `fn` and `forward_fn` write different variables.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, ArityError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class SignGradient(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         def f(mdl, x):
        ...             return mdl(x)
        ...         def forward(mdl, x):
        ...             return nn.vjp(f, mdl, x)
        ...         def backward(vjp_fn, y_ct):
        ...             variables_ct, x_ct = vjp_fn(y_ct)
        ...             return jax.tree.map(jnp.sign, variables_ct), x_ct
        ...         return nn.custom_vjp(f, forward, backward)(nn.Dense(1), x).sum()
        >>> model, x = SignGradient(), jnp.array([2.0, -3.0])
        >>> variables = model.init(jax.random.key(0), x)
        >>> jax.grad(model.apply)(variables, x)['params']['Dense_0']['kernel']
        Array([[ 1.],
               [-1.]], dtype=float32)
    """
    grad_vars = collections(CUSTOM_VJP, wrt, "grad_vars", grad_vars, "params")
    return with_rule(CUSTOM_VJP, fn, forward_fn, backward_fn, grad_vars, nondiff_argnums, state_cotangents)


def with_rule(
    transform: Transform,
    fn: Callable[..., Any],
    forward_fn: Callable[..., Any],
    backward_fn: Callable[..., Any],
    grad_vars: Filter,
    nondiff_argnums: int | Sequence[int],
    state_cotangents: bool,
) -> Callable[..., Any]:
    """Implement `custom_vjp`; errors name `transform`."""
    nondiff_argnums = checked(transform, nondiff_argnums, fn=fn, forward_fn=forward_fn, backward_fn=backward_fn)

    @functools.wraps(fn)
    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = RuleCall(transform, fn, mdl, args, kwargs, grad_vars, nondiff_argnums)
        types = jax.tree.map(type_of, (call.packed.groups[0], call.diff))

        def forward(*primals: Any) -> Any:
            operands = custom_vjp_primal_tree_values(primals)
            call.refuse_constants([p.perturbed for p in primals[4]], [p.perturbed for p in primals[5]])
            call.before_rule(*operands)
            out, run = call.run(forward_fn, *operands)
            out, residuals = demand_pair(
                out, transform, pair="(output, residuals)", why="a rule of its own", who="forward_fn",
                remedy="return (output, ()) if the backward rule needs nothing",
            )  # fmt: skip
            call.check_alike(out, run.state.written, "forward_fn", "(output, residuals)")
            return (out, run.state.written), (split(residuals), operands[4])

        def backward(saved: Any, cotangents: Any) -> Any:
            (residuals, unsplit), constants = saved
            out_ct, state_ct = cotangents
            poison = None if state_cotangents else _poison(state_ct, call.packed)
            nondiff = call.rebuild(constants)[0]
            given = [*(nondiff[i] for i in sorted(nondiff)), unsplit(residuals), _densified(out_ct)]
            if state_cotangents:
                given.append(call.packed.view.assemble([nested(flat) for flat in _densified(state_ct)]))
            more = ", state_ct" * state_cotangents
            wanted = f"backward_fn({'nondiff_arg, ' * len(nondiff)}residuals, out_ct{more})"
            with call.confined(), arity_explained(backward_fn, given, {}, transform, wanted):
                result = backward_fn(*given)
                call.refuse_foreign(result)
            wrt_ct, diff_ct = _checked(result, types, call.packed)
            if poison is not None:
                wrt_ct, diff_ct = jax.tree.map(lambda ct: _poisoned(ct, poison), (wrt_ct, diff_ct))
            return wrt_ct, None, None, diff_ct, None, None

        def with_rule(function: Callable[..., Any]) -> Callable[..., Any]:
            rule = jax.custom_vjp(function)
            rule.defvjp(forward, backward, symbolic_zeros=True)
            return rule

        with noted():
            return call.through(with_rule)

    return called


# --- cotangents ------------------------------------------------------------------------------------------------------


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _densified(cts: Any) -> Any:
    return jax.tree.map(lambda ct: zero(ct) if _is_zero(ct) else ct, cts, is_leaf=_is_zero)


def _checked(result: Any, types: Any, packed: Packed) -> tuple[Any, Any]:
    """Return the cotangents that a rule gave for variables and arguments, complete, or raise."""
    wrt, diff = types
    what = f"{packed.transform} at {packed.where}: the result of backward_fn"
    if not isinstance(result, tuple | list) or len(result) != 1 + len(diff):
        raise errors.CotangentError(
            f"{what}: expected (variables_ct, *args_ct) with {1 + len(diff)} cotangents, one for the variables and one "
            f"for each of {len(diff)} arguments; got {describe(result)}. None is a cotangent of zero."
        )
    if result[0] is None:
        wrt_ct = None
    else:
        given = packed.view.disassemble(result[0], what, errors.CotangentError)
        how = Completion(what, "cotangent", packed.where, errors.CotangentError, missing_is_zero=False)
        wrt_ct = tuple(complete(t, g, how) for t, g in zip(wrt, given, strict=True))
    for i, (type_, ct) in enumerate(zip(diff, result[1:], strict=True), 1):
        has_none = any(x is None for x in jax.tree.leaves(ct, is_leaf=lambda x: x is None))
        found = None if has_none else tree_mismatch(type_, ct)
        if found:
            raise errors.CotangentError(
                f"{what} has a cotangent for argument {i}{found.path} that does not fit it: expected {found.expected}, "
                f"got {found.got}.{found.hint}"
            )
    return wrt_ct, tuple(result[1:])


def _poison(state_ct: Sequence[dict[Path, Any]], packed: Packed) -> Any:
    """Return None if no cotangent of written state is dropped, or a number that is NaN if one is when it is run."""
    poison = None
    for root, flat in zip(packed.roots, state_ct, strict=True):
        for path, tree in flat.items():
            text = (
                f"{packed.transform}: the variable {'/'.join(path)} at {root.path_text} was written inside the "
                "function with the "
                "custom rule, and a cotangent flows back into it, which the rule does not take: the gradient through "
                "it would be dropped. Use custom_vjp with state_cotangents=True and handle it in backward_fn(…, "
                "residuals, out_ct, state_ct), or put jax.lax.stop_gradient around the value."
            )
            for ct in jax.tree.leaves(tree, is_leaf=_is_zero):
                known = isinstance(ct, SymbolicZero) or ct.dtype == jax.dtypes.float0 or _compat.known_zero(ct)
                if known is False:
                    raise errors.StateCotangentError(text)
                if known is None:
                    nan = refuse_at_run(jnp.any(ct != 0), text)
                    poison = nan if poison is None else poison + nan
    return poison


def _poisoned(ct: Any, poison: Any) -> Any:
    return ct + poison.astype(ct.dtype) if jnp.issubdtype(ct.dtype, jnp.inexact) else ct
