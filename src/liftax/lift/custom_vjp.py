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

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from liftax import _compat, errors
from liftax.ad.checks import demand_pair, describe, explain_arity, tree_mismatch
from liftax.core import filters
from liftax.core.pack import Packed, State, unbind
from liftax.core.scope import Scope
from liftax.lift.checks import check_filters, check_primals
from liftax.lift.fill import Rule, complete, zero
from liftax.typing import Filter, Path


def custom_vjp(
    fn: Callable[..., Any],
    forward_fn: Callable[..., Any],
    backward_fn: Callable[..., Any],
    grad_vars: Filter = "params",
    nondiff_argnums: int | Sequence[int] = (),
    state_cotangents: bool = False,
) -> Callable[..., Any]:
    """Give a function of a module a backward rule of its own.

    Outside of a module use `jax.custom_vjp`.

    Args:
        fn: Called as `fn(mdl, *args, **kwargs)`: what runs where nothing is differentiated.
        forward_fn: Called alike; returns `(output, residuals)`. Residuals are a tree of arrays, of backward maps that
            `nn.vjp` returned, and of whatever else the backward rule needs.
        backward_fn: Called as `backward_fn(*nondiff_args, residuals, out_ct)`; returns `(variables_ct, *args_ct)`:
            `variables_ct` is shaped like the variables in `grad_vars`, as `nn.vjp` gives them, and there is one
            cotangent for each positional argument that is not in `nondiff_argnums`. None is a cotangent of zero. The
            module is not available in it; put what it needs, such as `mdl.variables`, into the residuals.
        grad_vars: The collections that the rule gives a cotangent. The others are constants to it: theirs is zero.
        nondiff_argnums: Positions of arguments that get no cotangent, counted with the module as 0; negative ones
            count from the end. Keyword arguments get none either.
        state_cotangents: Call `backward_fn(*nondiff_args, residuals, out_ct, state_ct)`: `state_ct` holds the
            cotangents of the variables that were written, shaped like them: `{'batch_stats': …}`.

    Returns:
        A function with the signature of `fn`, whose first argument is a bound Module, a Scope, or a tree of these.

    Raises:
        AuxError: `forward_fn` returns no pair.
        CotangentError: `backward_fn` returns cotangents that do not fit.
        StateCotangentError: The cotangent of a written variable is not zero, and `state_cotangents` is False. Where
            that shows only when the compiled program runs (the carry of a scan, a branch of a cond), the gradient is
            NaN instead.
        DroppedGradientError: An argument without a cotangent is being differentiated.
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
    if isinstance(nondiff_argnums, int):
        nondiff_argnums = (nondiff_argnums,)

    @functools.wraps(fn)
    def with_rule(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        packed = unbind(mdl, (grad_vars, True), True, "custom_vjp")
        check_filters(packed, "custom_vjp", grad_vars=grad_vars)
        fixed = _positions(nondiff_argnums, len(args) + 1)
        diff = tuple(a for i, a in enumerate(args, 1) if i not in fixed)
        check_primals(diff, "custom_vjp")
        constants, rebuild = _split(({i: args[i - 1] for i in fixed}, kwargs))
        types = jax.tree.map(_type, (packed.groups[0], diff))
        seen: list[Any] = []  # what fn returned and wrote: forward_fn has to do the same

        def run(function: Callable[..., Any], wrt: Any, others: Any, keys: Any, diff: Any, constants: Any) -> Any:
            nondiff, kwargs = rebuild(constants)
            rest = iter(diff)
            args = [nondiff[i] if i in fixed else next(rest) for i in range(1, len(fixed) + len(diff) + 1)]
            with packed.bind((wrt, others), keys) as inner:
                try:
                    out = function(inner.target, *args, **kwargs)
                except TypeError as error:
                    explain_arity(function, (inner.target, *args), kwargs, error, "custom_vjp")
                    raise
                state = inner.collect()
            return out, state

        def forward(*primals: Any) -> Any:
            wrt, others, keys, diff, constants = jax.tree.map(lambda p: p.value, primals, is_leaf=_is_primal)
            for name, p in zip(_names(fixed, args, kwargs), primals[4], strict=True):
                if p.perturbed:
                    raise errors.DroppedGradientError(
                        f"custom_vjp at {packed.roots[0].path_text}: {name} is being differentiated, and the rule "
                        "gives no cotangent to keyword arguments and nondiff_argnums. Pass it by position and outside "
                        "nondiff_argnums, or through jax.lax.stop_gradient."
                    )
            if not seen:  # JAX runs fn where nothing is differentiated, and forward_fn alone where something is
                jax.eval_shape(function, wrt, others, keys, diff, constants)
            out, state = run(forward_fn, wrt, others, keys, diff, constants)
            if any(_compat.escaped(x) for x in jax.tree.leaves((out, state))):
                raise _closed_over(packed)
            out, residuals = demand_pair(
                out, "custom_vjp", pair="(output, residuals)", why="a rule of its own",
                who="forward_fn",
                remedy="return (output, ()) if the backward rule needs nothing",
            )  # fmt: skip
            _check_alike(seen[0], jax.tree.map(_type, (out, state.written)), packed)
            return (out, state.written), (_split(residuals), constants)

        def backward(saved: Any, cotangents: Any) -> Any:
            (residuals, unsplit), constants = saved
            out_ct, state_ct = cotangents
            nondiff = rebuild(constants)[0]
            given = (
                *(nondiff[i] for i in sorted(nondiff)),
                unsplit(residuals),
                jax.tree.map(_dense, out_ct, is_leaf=_is_zero),
            )
            if state_cotangents:
                result = backward_fn(*given, _shaped(jax.tree.map(_dense, state_ct, is_leaf=_is_zero), packed))
                poison = None
            else:
                poison = _poison(state_ct, packed)
                result = backward_fn(*given)
            wrt_ct, diff_ct = _checked(result, types, packed)
            if poison is not None:
                wrt_ct, diff_ct = jax.tree.map(lambda ct: _poisoned(ct, poison), (wrt_ct, diff_ct))
            return wrt_ct, None, None, diff_ct, None

        def function(*primals: Any) -> Any:
            out, state = run(fn, *primals)
            seen[:] = [jax.tree.map(_type, (out, state.written))]
            return out, state.written

        created: tuple[dict[Path, Any], ...] = tuple({} for _ in packed.roots)
        if any(scope.store.is_mutable(col) for scope in packed.roots for col in _maybe_new(grad_vars, scope)):
            # What the rule gives cotangents to has to exist: create it first, in a run of its own.
            _, first = run(fn, packed.groups[0], packed.groups[1], packed.keys, diff, constants)
            packed.include(first, grad_vars)
            created = first.created
            types = jax.tree.map(_type, (packed.groups[0], diff))
        rule = jax.custom_vjp(function)
        rule.defvjp(forward, backward, symbolic_zeros=True)
        try:
            out, written = rule(*packed.groups, packed.keys, diff, constants)
        except jax.errors.UnexpectedTracerError as error:
            raise _closed_over(packed) from error
        packed.commit(State(written, created))
        return out

    return with_rule


# --- arguments -------------------------------------------------------------------------------------------------------


def _maybe_new(grad_vars: Filter, scope: Scope) -> set[str]:
    """Return the collections in `grad_vars` in which the function could create variables."""
    return {
        c for c in {*scope.store.collections(), *filters.named(grad_vars), "params"} if filters.in_filter(grad_vars, c)
    }


def _positions(argnums: Sequence[int], count: int) -> tuple[int, ...]:
    positions = []
    for i in argnums:
        if not -count < i < count or i == 0:
            raise errors.ArityError(
                f"custom_vjp: nondiff_argnums has {i}, and the call has {count} positional arguments, of which the "
                f"module is 0. Give numbers from 1 to {count - 1}, or from {1 - count} to -1."
            )
        positions.append(i % count)
    return tuple(sorted(set(positions)))


@jax.tree_util.register_pytree_node_class
class _Rebuild:
    """Put arrays back between the static leaves of a tree. A pytree without children: it may be a residual."""

    def __init__(self, treedef: Any, static: tuple[Any, ...]):
        self.treedef = treedef
        self.static = static

    def __call__(self, arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        return self.treedef.unflatten([next(rest) if s is _ARRAY else s for s in self.static])

    def tree_flatten(self) -> tuple[tuple[()], "_Rebuild"]:
        return (), self

    @classmethod
    def tree_unflatten(cls, self: "_Rebuild", _: tuple[()]) -> "_Rebuild":
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rebuild) or self.treedef != other.treedef or len(self.static) != len(other.static):
            return False
        return all(
            a is b or (type(a) is type(b) and bool(a == b)) for a, b in zip(self.static, other.static, strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.treedef, len(self.static)))


_ARRAY = object()


def _names(fixed: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    """Return what to call each array among the constants, in the order of `_split`."""
    named = [(f"argument {i}", args[i - 1]) for i in fixed] + [
        (f"the keyword argument {k!r}", kwargs[k]) for k in sorted(kwargs)
    ]
    return [
        name + jax.tree_util.keystr(path)
        for name, tree in named
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if _is_array(x)
    ]


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _split(tree: Any) -> tuple[list[Any], _Rebuild]:
    """Return the arrays in `tree`, and what puts them back between the other leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    is_array = [_is_array(x) for x in leaves]
    static = tuple(_ARRAY if a else x for x, a in zip(leaves, is_array, strict=True))
    return [x for x, a in zip(leaves, is_array, strict=True) if a], _Rebuild(treedef, static)


def _is_primal(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _type(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype if hasattr(x, "dtype") else jax.dtypes.result_type(x))


# --- cotangents ------------------------------------------------------------------------------------------------------


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _dense(ct: Any) -> Any:
    if not isinstance(ct, SymbolicZero):
        return ct
    return zero(ct)


def _checked(result: Any, types: Any, packed: Packed) -> tuple[Any, Any]:
    """Return the cotangents that a rule gave for variables and arguments, complete, or raise."""
    wrt, diff = types
    what = f"custom_vjp at {packed.roots[0].path_text}: the result of backward_fn"
    if not isinstance(result, tuple | list) or len(result) != 1 + len(diff):
        raise errors.CotangentError(
            f"{what}: expected (variables_ct, *args_ct) with {1 + len(diff)} cotangents, one for the variables and one "
            f"for each of {len(diff)} arguments; got {describe(result)}. None is a cotangent of zero."
        )
    if result[0] is None:
        wrt_ct = None
    else:
        given = packed.view.disassemble(result[0], what, errors.CotangentError)
        rule = Rule(what, "cotangent", packed.roots[0].path_text, errors.CotangentError, missing_is_zero=False)
        wrt_ct = tuple(complete(t, g, rule) for t, g in zip(wrt, given, strict=True))
    for i, (type_, ct) in enumerate(zip(diff, result[1:], strict=True), 1):
        found = (
            ct is not None and None not in jax.tree.leaves(ct, is_leaf=lambda x: x is None) and tree_mismatch(type_, ct)
        )
        if found:
            raise errors.CotangentError(
                f"{what} has a cotangent for argument {i}{found.path} that does not fit it: expected {found.expected}, "
                f"got {found.got}.{found.hint}"
            )
    return wrt_ct, tuple(result[1:])


def _shaped(state_ct: Sequence[dict[Path, Any]], packed: Packed) -> Any:
    roots: list[dict[str, Any]] = []
    for flat in state_ct:
        nested: dict[str, Any] = {}
        for path, ct in flat.items():
            tree = nested
            for name in path[:-1]:
                tree = tree.setdefault(name, {})
            tree[path[-1]] = ct
        roots.append(nested)
    return packed.view.assemble(roots)


def _poison(state_ct: Sequence[dict[Path, Any]], packed: Packed) -> Any:
    """Return None if no cotangent of written state is dropped, or a number that is NaN if one is when it is run."""
    unknown = []
    for root, flat in zip(packed.roots, state_ct, strict=True):
        for path, tree in flat.items():
            for ct in jax.tree.leaves(tree, is_leaf=_is_zero):
                known = isinstance(ct, SymbolicZero) or ct.dtype == jax.dtypes.float0 or _compat.known_zero(ct)
                if known is False:
                    raise errors.StateCotangentError(
                        f"custom_vjp: the variable {'/'.join(path)} at {root.path_text} was written inside the "
                        "function with the custom rule, and a cotangent flows back into it, which the rule does not "
                        "take: the gradient through it would be dropped. Pass state_cotangents=True and handle it in "
                        "backward_fn(…, residuals, out_ct, state_ct), or put jax.lax.stop_gradient around the value."
                    )
                if known is None:
                    unknown.append(jnp.any(ct != 0))
    return jnp.where(functools.reduce(jnp.logical_or, unknown), jnp.nan, 0.0) if unknown else None


def _poisoned(ct: Any, poison: Any) -> Any:
    return ct + poison.astype(ct.dtype) if jnp.issubdtype(ct.dtype, jnp.inexact) else ct


def _closed_over(packed: Packed) -> errors.DroppedGradientError:
    return errors.DroppedGradientError(
        f"custom_vjp at {packed.roots[0].path_text}: the function closes over a value that is being differentiated, "
        "and the rule gives cotangents to its arguments and to the variables of its target alone. Pass the value by "
        "position, or make the module that it comes from a part of the target: rule((mdl, other), x)."
    )


def _check_alike(expected: Any, got: Any, packed: Packed) -> None:
    """Raise `CustomRuleError` unless `forward_fn` returned and wrote what `fn` did, in structure, shapes and dtypes."""
    if expected == got:
        return
    (out, written), (forward_out, forward_written) = expected, got
    where = f"custom_vjp at {packed.roots[0].path_text}"
    keys, forward_keys = ([sorted(w) for w in ws] for ws in (written, forward_written))
    if keys != forward_keys:
        raise errors.CustomRuleError(
            f"{where}: fn and forward_fn write different variables: {_listed(keys)} and {_listed(forward_keys)}. Let "
            "both do the same to the state."
        )
    found = tree_mismatch(out, forward_out, any_for_float0=False) or tree_mismatch(written, forward_written)
    if found:
        raise errors.CustomRuleError(
            f"{where}: forward_fn returns another output{found.path} than fn does: expected {found.expected}, got "
            f"{found.got}. The first of the pair (output, residuals) is what fn returns."
        )


def _listed(keys: Sequence[Sequence[Path]]) -> str:
    return ", ".join("/".join(path) for paths in keys for path in paths) or "none"
