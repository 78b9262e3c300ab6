"""`reduce_axes`: sum a cotangent over the mapped axes along which its primal was broadcast.

    mark : axes -> a -> a          the identity, whose transpose is `reduce`
    reduce : axes -> CT a -o CT a  the sum over those of `axes` along which the primal does not vary

Under `jax.vmap(..., axis_name='batch')` a function runs once for every example. A primal that does not vary over the
axis (it is *unmapped*: the parameters, as a rule) is one value p that JAX broadcasts, p_b = p for every example b. The
transpose of broadcasting is summing, so the cotangent of p is `sum_b ct_b`: one value, unmapped like p, which is why
`out_axes=None` may be written for it. `jax.vjp` differentiates inside the axis, sees p_b alone, and returns every
ct_b. A primal that varies over the axis was not broadcast and keeps its ct_b.

So every primal enters the function through `mark`, and what arrives at the transpose is `reduce(ct, like=primal)`.
Which axes the primal varies over is known to no one at that point: under `jit` or inside `scan` it is decided later,
when `vmap` reaches the program. `reduce` is therefore a primitive that keeps the primal at its side until it is
batched. Of an axis that is named in `axes`, its batching rule decides, for ct and primal mapped (m) or unmapped (u):

    ct m, primal u   sum over the axis                 -> unmapped
    ct u, primal u   every ct_b is ct: axis size * ct  -> unmapped
    ct m, primal m   nothing to sum                    -> mapped as ct is
    ct u, primal m   nothing to sum                    -> unmapped

and the name is struck off. The last name gone, the primitive is gone too: the compiled program holds the sums and
nothing else. An axis that is not named leaves the primitive in place, with ct and primal each mapped as they were,
because an axis further out may still ask about the primal.

Higher derivatives: `reduce` is what `jax.lax.psum` is over the axes in question, and like `psum` under `vmap` it is
its own transpose (every example has its own copy of the sum, and each copy's cotangent counts). Differentiating
through it thus gives what differentiating through a `psum` written by hand gives.

Under `jax.shard_map` JAX itself keeps the books: the type of a value says over which axes of the mesh it varies, a
value that does not is cast where it meets one that does, and the transpose of the cast is a `psum`. A cotangent has the
type of its primal, so it is summed over each axis of the mesh, named or not; to name it asks for what happens anyway,
and sets no mark. For the gradient of one device cast first: `jax.lax.pcast(p, axis, to='varying')`. With
`check_vma=False` there are no such types: each device gets its own cotangent, and which primals vary is known to no
one, so naming the axis is an error.

One mapping can't be seen: a `cond` whose predicate is mapped becomes a select, for which JAX broadcasts every operand
first. A primal of a `vjp` *inside* such a branch varies over the axis, and its cotangent stays per example.

Source: the semantics of `reduce_axes` in `flax.linen.vjp` and in `jax.vjp` up to JAX 0.4.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from liftax import _compat
from liftax.errors import ReduceAxesError, nearest
from liftax.explain.transform import Transform
from liftax.typing import AxisName, PyTree


def resolve_axes(reduce_axes: AxisName | Sequence[AxisName], transform: Transform) -> tuple[AxisName, ...]:
    """Return the axis names in `reduce_axes` to set marks for: those of `jax.vmap`s around the caller.

    Axes of a mesh that `jax.shard_map` runs over may be named too, and need no mark.

    Args:
        reduce_axes: One axis name as a string, or a sequence or set of axis names.
        transform: For the error text.

    Returns:
        The names, each once.

    Raises:
        ReduceAxesError: A name is not bound, is bound by `shard_map` with `check_vma=False`, or `reduce_axes` holds no
            names at all.
    """
    names = _names(reduce_axes, transform)
    return tuple(dict.fromkeys(name for name in names if not _is_summed_by_jax(name, transform)))


def _names(reduce_axes: Any, transform: Transform) -> tuple[AxisName, ...]:
    if isinstance(reduce_axes, str):
        reduce_axes = (reduce_axes,)
    if not isinstance(reduce_axes, tuple | list | set | frozenset):
        raise ReduceAxesError(
            f"{transform} got reduce_axes={reduce_axes!r} of type {type(reduce_axes).__name__}, expected axis names. "
            "Write a name or a sequence of names, such as reduce_axes=('batch',)."
        )
    for name in reduce_axes:
        if name is None or isinstance(name, bool) or not isinstance(name, Hashable):
            raise ReduceAxesError(
                f"{transform} got {name!r} of type {type(name).__name__} in reduce_axes, expected the name of an axis. "
                "Write the names themselves, such as reduce_axes=('batch',)."
            )
    return tuple(reduce_axes)


def _is_bound(name: AxisName) -> bool:
    try:
        jax.lax.axis_size(name)
    except (NameError, TypeError, ValueError, KeyError):
        return False
    return True


def bound_axes(reduce_axes: AxisName | Sequence[AxisName], transform: Transform) -> tuple[AxisName, ...]:
    """Return the names in `reduce_axes`, checked, of axes that are bound here: outside of an axis there is no sum."""
    return tuple(name for name in _names(reduce_axes, transform) if _is_bound(name))


def mark(tree: PyTree, axes: tuple[AxisName, ...]) -> PyTree:
    """Return `tree` unchanged, with leaves whose cotangents are summed over `axes` where they do not vary over these.

    Integers, Booleans, keys and refs have no cotangent to sum and are left alone.
    """
    return jax.tree.map(lambda x: _mark_p().bind(x, x, axes=axes) if _is_inexact(x) else x, tree)


def _is_inexact(x: Any) -> bool:
    aval = jax.typeof(x)
    return isinstance(aval, jax.core.ShapedArray) and jnp.issubdtype(aval.dtype, jnp.inexact)


def _is_summed_by_jax(name: Any, transform: Transform) -> bool:
    if not _is_bound(name):
        bound = [repr(n) for n in _compat.bound_axis_names()]
        raise ReduceAxesError(
            f"{transform} got reduce_axes with {name!r}, but no axis of that name is bound here. Bound axes: "
            f"{', '.join(bound) or 'none'}.{nearest(str(name), map(str, _compat.bound_axis_names()))} Call {transform} "
            f"in a function under jax.vmap(..., axis_name={name!r}), or leave the name out of reduce_axes."
        )
    if name not in jax.sharding.get_abstract_mesh().manual_axes:
        return False
    if name in jax.typeof(jax.lax.axis_index(name)).manual_axis_type.varying:  # type: ignore[union-attr]
        return True
    raise ReduceAxesError(
        f"{transform} got reduce_axes with {name!r}, an axis of a mesh that shard_map runs over with check_vma=False: "
        "without the types that it checks, nothing says which values vary over the axis. Leave check_vma=True, or "
        f"leave the name out, which gives the cotangent of each device, and sum by hand: jax.lax.psum(ct, {name!r})."
    )


def _unresolved(ct: Any, like: Any, *, axes: tuple[AxisName, ...]) -> Any:
    names = ", ".join(map(repr, axes))
    raise ReduceAxesError(
        f"A backward map made with reduce_axes was called where the axis {names} is not bound, so there is nothing to "
        f"sum over. Call it in the function under jax.vmap(..., axis_name={axes[0]!r}) that made it."
    )


def _identity(x: Any, like: Any, *, axes: tuple[AxisName, ...]) -> Any:
    return x


def _reduce(ct: Any, like: Any, *, axes: tuple[AxisName, ...]) -> Any:
    return _reduce_p().bind(ct, like, axes=axes) if axes else ct


def _batch_reduce(
    size: int, name: Hashable, vals: Sequence[Any], dims: Sequence[int | None], params: dict[str, Any]
) -> tuple[Any, int | None]:
    (ct, like), (ct_dim, like_dim) = vals, dims
    axes = params["axes"]
    if name in axes:
        axes = tuple(a for a in axes if a != name)
        if like_dim is None:
            ct = ct * size if ct_dim is None else jnp.sum(ct, axis=ct_dim)
            ct_dim = None
    return _reduce(ct, like, axes=axes), ct_dim


def _batch_mark(
    size: int, name: Hashable, vals: Sequence[Any], dims: Sequence[int | None], params: dict[str, Any]
) -> tuple[Any, int | None]:
    return _mark_p().bind(*vals, **params), dims[0]


@functools.cache
def _mark_p() -> Any:
    # A derivative taken outside sees the marked value: only the cotangents of the vjp that set the mark are summed.
    return _compat.linear_in_first("liftax_mark", run=_identity, primal=_identity, transpose=_reduce, batch=_batch_mark)


@functools.cache
def _reduce_p() -> Any:
    return _compat.linear_in_first(
        "liftax_reduce", run=_unresolved, primal=None, transpose=_reduce, batch=_batch_reduce
    )
