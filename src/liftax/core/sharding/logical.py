"""Logical axes: dimensions of variables and activations named by what they mean, and rules that map them to a mesh.

rules : ((logical axis, mesh axis or tuple of these or None), …), in order of precedence
"""

import contextlib
import dataclasses
import enum
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from liftax.core.boxes import A
from liftax.core.sharding.partitioning import Names, Partitioned, constrain

Rules = Sequence[tuple[str, Any]]


class _InUse(threading.local):
    rules: Rules = ()


_in_use = _InUse()


class RulesFallback(enum.Enum):
    """What `with_logical_constraint` does with a logical axis that no rule maps.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> with nn.logical_axis_rules([('batch', 'data')]):
        ...     nn.with_logical_constraint(jnp.ones(2), ('embed',), fallback=nn.RulesFallback.NO_CONSTRAINT)
        Array([1., 1.], dtype=float32)
    """

    AXIS_IS_UNSHARDED = "axis_is_unsharded"
    RAISE_ERROR = "raise_error"
    NO_CONSTRAINT = "no_constraint"


def get_logical_axis_rules() -> Rules:
    """Return the rules in use.

    Example:
        >>> from liftax import nn
        >>> with nn.logical_axis_rules([('batch', 'data')]):
        ...     nn.get_logical_axis_rules()
        [('batch', 'data')]
    """
    return _in_use.rules


def set_logical_axis_rules(rules: Rules) -> None:
    """Use `rules` from here on, in this thread. Prefer `logical_axis_rules`, which puts the old ones back.

    Example:
        >>> from liftax import nn
        >>> before = nn.get_logical_axis_rules()
        >>> nn.set_logical_axis_rules([('batch', 'data')])
        >>> tuple(nn.logical_to_mesh_axes(('batch', None)))
        ('data', None)
        >>> nn.set_logical_axis_rules(before)
    """
    _in_use.rules = rules


@contextlib.contextmanager
def logical_axis_rules(rules: Rules) -> Iterator[None]:
    """Use `rules` while the `with` block runs.

    Args:
        rules: pairs of a logical axis and the mesh axis, or axes, that it is laid out over, in order of precedence.

    Example:
        >>> from liftax import nn
        >>> with nn.logical_axis_rules([('batch', 'data'), ('embed', None), ('heads', 'model')]):
        ...     tuple(nn.logical_to_mesh_axes(('batch', 'heads', 'embed')))
        ('data', 'model', None)
    """
    before = _in_use.rules
    _in_use.rules = rules
    try:
        yield
    finally:
        _in_use.rules = before


def logical_to_mesh_axes(array_dim_names: Sequence[Any] | None, rules: Rules | None = None) -> PartitionSpec | None:
    """Map the logical axes of one array to mesh axes.

    The rules are tried in order; one applies if its logical axis is there and has no mesh axis yet, and its mesh axes
    are not taken by another dimension. A dimension that no rule applies to is not split.

    Args:
        array_dim_names: a logical axis for each dimension, or None for not split.
        rules: the rules; by default those in use.

    Raises:
        ValueError: a logical axis stands twice, or `rules` is no sequence of pairs.

    Example:
        >>> from liftax import nn
        >>> rules = (('batch', 'x'), ('features', 'x'), ('heads', 'y'), ('batch', 'z'))
        >>> tuple(nn.logical_to_mesh_axes(('batch', 'length', 'heads', 'features'), rules))
        ('x', None, 'y', None)
    """
    mapped = _mapped(array_dim_names, rules)
    return None if mapped is None else PartitionSpec(*(None if x is _UNMAPPED else x for x in mapped))


def logical_to_mesh(tree: Any, rules: Rules | None = None) -> Any:
    """Map a tree of `PartitionSpec`s of logical axes to one of mesh axes. See `logical_to_mesh_axes`.

    Example:
        >>> from jax.sharding import PartitionSpec
        >>> from liftax import nn
        >>> specs = nn.logical_to_mesh({'kernel': PartitionSpec('embed', 'heads')}, [('heads', 'model')])
        >>> tuple(specs['kernel'])
        (None, 'model')
    """
    return jax.tree.map(lambda spec: logical_to_mesh_axes(spec, rules), tree, is_leaf=_is_spec)


def logical_to_mesh_sharding(tree: Any, mesh: Mesh, rules: Rules | None = None) -> Any:
    """Map a tree of `PartitionSpec`s of logical axes to layouts over `mesh`. See `logical_to_mesh_axes`.

    Example:
        >>> import jax
        >>> from jax.sharding import PartitionSpec
        >>> from liftax import nn
        >>> mesh = jax.make_mesh((1,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
        >>> specs = {'kernel': PartitionSpec('embed', 'heads')}
        >>> layouts = nn.logical_to_mesh_sharding(specs, mesh, [('heads', 'model')])
        >>> tuple(layouts['kernel'].spec)
        (None, 'model')
    """
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), logical_to_mesh(tree, rules), is_leaf=_is_spec)


def with_logical_constraint(
    x: Any,
    logical_axis_resources: Any,
    rules: Rules | None = None,
    mesh: Mesh | None = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
) -> Any:
    """Lay activations out over the mesh, by the names of their axes. Without rules or without a mesh: `x` as it is.

    Args:
        x: an array, or a tree of arrays.
        logical_axis_resources: a tuple of logical axes, or a tree of such tuples shaped like `x`.
        rules: the rules; by default those in use.
        mesh: the mesh; by default the one in use.
        fallback: what to do with a logical axis that no rule maps.

    Raises:
        ValueError: `fallback` is `RAISE_ERROR`, and no rule maps an axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
        >>> with nn.logical_axis_rules([('batch', 'data')]):
        ...     y = nn.with_logical_constraint(jnp.ones((4, 2)), ('batch', None), mesh=mesh)
        >>> y.sharding.spec[0]
        'data'
    """
    rules = get_logical_axis_rules() if rules is None else rules
    if not rules or logical_axis_resources is None:
        return x

    def one(names: Any, array: Any) -> Any:
        mapped = _mapped(names, rules)
        if mapped is None:
            return array
        if _UNMAPPED in mapped and fallback is RulesFallback.RAISE_ERROR:
            raise ValueError(
                f"with_logical_constraint: no rule applies to some of the axes {names}; the rules are {rules}. Add a "
                "rule for each axis (None for not split), or pass another fallback."
            )
        if _UNMAPPED in mapped and fallback is RulesFallback.NO_CONSTRAINT:
            return array
        return constrain(array, PartitionSpec(*(None if m is _UNMAPPED else m for m in mapped)), mesh)

    return jax.tree.map(one, logical_axis_resources, x, is_leaf=_is_names)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["names", "mesh", "rules"])
@dataclasses.dataclass(frozen=True)
class LogicallyPartitioned(Partitioned[A]):
    """A value, and the logical axis of each of its dimensions. See `Partitioned`.

    Args:
        value: an array.
        names: for each dimension: the name of a logical axis, or None for not split.
        mesh: the mesh; by default the one that is in use where the variable is read.
        rules: the rules; by default those in use there.

    Example:
        >>> import jax.numpy as jnp
        >>> from liftax import nn
        >>> box = nn.LogicallyPartitioned(jnp.ones((2, 3)), ('embed', 'heads'))
        >>> tuple(box.get_partition_spec()), box.unbox().shape
        (('embed', 'heads'), (2, 3))
    """

    rules: Rules | None = None

    def unbox(self, apply_constraint: bool = True) -> Any:
        """Return the value, laid out as names and rules say where there is a mesh."""
        if not apply_constraint:
            return self.value
        return with_logical_constraint(self.value, self.get_partition_spec(), self.rules, self.mesh)


def with_logical_partitioning(
    fn: Callable[..., Any], names: Names, mesh: Mesh | None = None, rules: Rules | None = None
) -> Callable[..., LogicallyPartitioned]:
    """Make an initializer box its value with the logical axes of its dimensions.

    Args:
        fn: an initializer.
        names: see `LogicallyPartitioned`.
        mesh: see `LogicallyPartitioned`.
        rules: see `LogicallyPartitioned`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> layer = nn.Dense(2, kernel_init=nn.with_logical_partitioning(nn.initializers.ones, ('embed', 'mlp')))
        >>> specs = nn.get_partition_spec(jax.eval_shape(layer.init, jax.random.key(0), jnp.ones(3)))
        >>> tuple(nn.logical_to_mesh(specs, [('mlp', 'model')])['params']['kernel'])
        (None, 'model')
    """

    @functools.wraps(fn)
    def boxed(*args: Any, **kwargs: Any) -> LogicallyPartitioned:
        return LogicallyPartitioned(fn(*args, **kwargs), names, mesh, rules)

    return boxed


_UNMAPPED = object()


def _mapped(names: Sequence[Any] | None, rules: Rules | None) -> list[Any] | None:
    if names is None:
        return None
    rules = get_logical_axis_rules() if rules is None else rules
    if not isinstance(rules, tuple | list):
        raise ValueError(
            f"Got rules of type {type(rules).__name__}. Expected a sequence of pairs (logical axis, mesh axis): "
            "(('batch', 'data'), ('embed', None))."
        )
    names = tuple(names)
    twice = sorted({n for n in names if isinstance(n, str) and names.count(n) > 1})
    if twice:
        raise ValueError(
            f"The logical axes {', '.join(map(repr, twice))} stand more than once in {names}: rules can't tell two "
            "dimensions of one name apart. Give each its own name."
        )
    result = [_UNMAPPED if isinstance(n, str) else n for n in names]
    for name, axes in rules:
        if name in names:
            i = names.index(name)
            if result[i] is _UNMAPPED and not _axes(axes) & set().union(*map(_axes, result)):
                result[i] = axes
    return result


def _axes(mapped: Any) -> set[Any]:
    """Return the mesh axes that one dimension is laid out over."""
    if mapped is _UNMAPPED or mapped is PartitionSpec.UNCONSTRAINED or mapped is None:
        return set()
    return set(mapped) if isinstance(mapped, tuple | list) else {mapped}


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _is_names(x: Any) -> bool:
    named = lambda e: isinstance(e, str) or e is None or e is PartitionSpec.UNCONSTRAINED  # noqa: E731
    return x is None or isinstance(x, PartitionSpec) or (isinstance(x, tuple) and all(map(named, x)))
