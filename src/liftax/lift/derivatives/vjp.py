"""Lifted reverse mode: the backward map of a part of a model, inside the model.

    vjp : (Module -> a -> b) -> Module -> a -> (b, CT b -o (CT variables, CT a))

One call to `ad.vjp`. The variables in `vjp_variables` are primals; all others, and the keys of the rng streams, are
constants of the differentiated function (see `liftax.lift.machinery.operands`).

Source: `jax.vjp`; `flax.linen.vjp` for the signature.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import jax

from liftax import ad, errors
from liftax.core.packing.packed import Packed
from liftax.core.packing.run import State
from liftax.core.packing.view import View
from liftax.explain.transform import Transform, described
from liftax.explain.values import type_of
from liftax.lift.machinery.complete import Completion, complete
from liftax.lift.machinery.operands import Operands, collections
from liftax.lift.machinery.paths import flat, get, nested
from liftax.typing import AxisName, Filter, Path

VJP = Transform("vjp", "(fn, module, *primals)", filters=("vjp_variables", "variables"))

T = TypeVar("T")
U = TypeVar("U")


@overload
def vjp(
    fn: Callable[..., T], mdl: Any, *primals: Any, has_aux: Literal[False] = False,
    reduce_axes: AxisName | Sequence[AxisName] = (), vjp_variables: Filter = "params", variables: Filter = True,
    rngs: Filter = True, multi_scope: bool = False, state_cotangents: bool = False, wrt: Filter | None = None,
) -> tuple[T, ad.VjpFn]: ...  # fmt: skip
@overload
def vjp(
    fn: Callable[..., tuple[T, U]], mdl: Any, *primals: Any, has_aux: Literal[True],
    reduce_axes: AxisName | Sequence[AxisName] = (), vjp_variables: Filter = "params", variables: Filter = True,
    rngs: Filter = True, multi_scope: bool = False, state_cotangents: bool = False, wrt: Filter | None = None,
) -> tuple[T, ad.VjpFn, U]: ...  # fmt: skip
@overload
def vjp(
    fn: Callable[..., Any], mdl: Any, *primals: Any, has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (), vjp_variables: Filter = "params", variables: Filter = True,
    rngs: Filter = True, multi_scope: bool = False, state_cotangents: bool = False, wrt: Filter | None = None,
) -> Any: ...  # fmt: skip
@described(VJP)
def vjp(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: AxisName | Sequence[AxisName] = (),
    vjp_variables: Filter = "params",
    variables: Filter = True,
    rngs: Filter = True,
    multi_scope: bool = False,
    state_cotangents: bool = False,
    wrt: Filter | None = None,
) -> Any:
    """Differentiate a function of a module backwards, with respect to its variables and its arguments.

    Outside of a module use `lx.vjp` or `jax.vjp` on `module.apply`.

    Args:
        fn: Called as `fn(mdl, *primals)`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: What to differentiate at: arrays or trees of them. Give other arguments to `fn` by a closure.
        has_aux: `fn` returns a pair `(output, aux)`, of which only the output is differentiated.
        reduce_axes: Names of mapped axes; see `lx.vjp`. While initializing, those that no axis around has are passed
            over.
        vjp_variables: The collections that get a cotangent.
        variables: The other collections that `fn` may use. They get none.
        rngs: The rng streams that `fn` may use.
        multi_scope: Accepted for Linen's sake; modules that reach others always work.
        state_cotangents: What `fn` writes is an output with a cotangent, too: `vjp_fn(out_ct, state_ct)`, where
            `state_ct` is `{collection: tree}`, shaped like the variables; what it leaves out is zero.
        wrt: The same as `vjp_variables`, by the name that it has in every derivative transform.

    Returns:
        `(primals_out, vjp_fn)`, or `(primals_out, vjp_fn, aux)` if `has_aux`. `vjp_fn(out_ct)` takes a cotangent of
        the shape of `primals_out` and returns `(variables_ct, *primals_ct)`: `variables_ct` is `{collection: tree}`,
        shaped like the variables (for a tree of modules, a tree of these; a module that is shared from elsewhere shows
        under the name of the field that holds it), and the others are shaped like the primals. It is a pytree; see
        `ad.VjpFn`.

    Raises:
        TransformTargetError, UnboundModuleError, InvalidScopeError: `mdl` is no usable target.
        UnknownCollectionError: A filter names no collection there is.
        ArityError, AuxError: `fn` does not take `(mdl, *primals)`, or returns no pair.
        CotangentError: (from `vjp_fn`) a cotangent does not fit the output, or the written state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.param('scale', nn.initializers.ones, ()) * x
        >>> class Sensitivity(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         y, vjp_fn = nn.vjp(lambda mdl, x: mdl(x), Scale(), x)
        ...         return vjp_fn(jnp.ones_like(y))
        >>> variables_ct, x_ct = Sensitivity().apply({'params': {'Scale_0': {'scale': 2.0}}}, jnp.array([3.0, 4.0]))
        >>> variables_ct, x_ct
        ({'params': {'scale': Array(7., dtype=float32, weak_type=True)}}, Array([2., 2.], dtype=float32))
    """
    varying = collections(VJP, wrt, "vjp_variables", vjp_variables, "params")
    operands = Operands.of(
        VJP, mdl, primals, wrt=varying, wrt_argument="vjp_variables", variables=variables, rngs=rngs
    ).created(fn, has_aux)  # fmt: skip
    pure = operands.pure(fn, has_aux)
    if state_cotangents:
        pure = _with_state(pure, operands.packed)
    out, vjp_fn, (aux, run) = ad.vjp(pure, *operands.point, has_aux=True, reduce_axes=operands.bound(reduce_axes))
    operands.commit(run)
    prepare, view = None, operands.packed.view
    if state_cotangents:
        out, written = out
        leaves, treedef = jax.tree.flatten(jax.tree.map(type_of, written))
        prepare = Prepare(view, treedef, tuple(leaves))
    vjp_fn = dataclasses.replace(vjp_fn, arrange=Arrange(view), prepare=prepare)
    return (out, vjp_fn, aux) if has_aux else (out, vjp_fn)


def _with_state(pure: Callable[..., Any], packed: Packed) -> Callable[..., Any]:
    """Return `pure` with the state that it writes as a part of its output."""

    def with_state(wrt: Any, *diff: Any) -> Any:
        out, (aux, run) = pure(wrt, *diff)
        return (out, _written(packed, run.state, wrt)), (aux, run)

    return with_state


def _written(packed: Packed, state: State, wrt: Any) -> tuple[dict[Path, Any], ...]:
    """Return what a run wrote, and what a call that initializes may leave unwritten that `apply` writes.

    These are the variables that exist, with the values that went in, so that the backward map takes what it will take.
    """
    whole = []
    for root, written, own, other in zip(packed.roots, state.written, wrt, packed.groups[1], strict=True):
        kept = {}
        if root.store.flags.get("initializing"):
            values = flat({**other, **own})
            kept = {p: x for p, x in values.items() if not any(p[:n] in written for n in range(len(p) + 1))}
        whole.append({**kept, **written})
    return tuple(whole)


@dataclasses.dataclass(frozen=True)
class Arrange:
    """Shape the cotangents of packed variables, which come first, like the target. Static and hashable."""

    view: View

    def __call__(self, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return `(variables_ct, *primals_ct)`."""
        return (self.view.assemble(cotangents[0]), *cotangents[1:])

    def undo(self, refs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what is shaped like the result of the map as JAX shapes it."""
        what = "The refs given to the backward map of vjp"
        return (self.view.disassemble(refs[0], what, errors.CotangentError), *refs[1:])


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Join the cotangents of an output and of written state, shaped like the target. Static and hashable."""

    view: View
    treedef: Any
    types: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, out_ct: Any, state_ct: Any = None) -> tuple[Any, Any]:
        """Return `(out_ct, cotangents of what was written)`."""
        what = "The cotangent of the state given to the backward map of vjp"
        roots = self.view.disassemble(state_ct, what, errors.CotangentError)
        how = Completion(what, "cotangent", "the target", errors.CotangentError, missing_is_zero=True)
        written = self.treedef.unflatten(self.types)
        trees = (complete(nested(flat), root, how) for flat, root in zip(written, roots, strict=True))
        return out_ct, tuple({path: get(t, path) for path in f} for f, t in zip(written, trees, strict=True))
