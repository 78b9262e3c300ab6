"""Lifted `shard_map`: a function of a module that runs once on every device of a mesh, on its shard.

    shard_map : (Module of shards -> a shard -> b shard) -> (Module -> a -> b)

One call to `jax.shard_map`. Each collection goes in and out by specs of its own; each rng stream is the same on all
devices, or is split along axes of the mesh. Inside, the module sees its shards of variables and arguments, collectives
(`jax.lax.psum` and its kin) see the axes, and gradients follow JAX's rule: what does not vary over an axis has a
gradient that is summed over it (see `liftax.ad.reduce`).

Outputs need specs before they exist. One spec for a collection holds for whatever is written to it; where the specs
are given variable by variable, a run in types alone tells first what is written.

Source: `jax.shard_map`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from liftax import errors
from liftax.core import filters, meta
from liftax.core.packing.run import Run, State
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.axes import grouped, ungrouped
from liftax.lift.machinery.forms import Call, Target, class_form, function_form, is_class
from liftax.lift.machinery.paths import get, updated
from liftax.typing import AxisName, Filter, PRNGKey

SHARD_MAP = Transform("shard_map", "(fn, …)(module, *args)", filters=("variable_specs", "variables"))


@described(SHARD_MAP)
def shard_map(
    target: Target,
    *,
    in_specs: Any,
    out_specs: Any,
    mesh: Any = None,
    variable_specs: Mapping[Filter, Any] = {},
    split_rngs: Mapping[Filter, bool | AxisName | Sequence[AxisName]] = {},
    axis_names: Set[AxisName] = frozenset(),
    check_vma: bool = True,
    variables: Filter = True,
    rngs: Filter = True,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
) -> Target:
    """Run a function of a module on each device of a mesh, on that device's shard.

    Outside of a module use `jax.shard_map`. Linen has no counterpart. Run it under `jax.jit`: without, JAX runs one
    operation at a time.

    Variables are made where they are first used: the shape of a parameter inside is that of one shard, at `init` as at
    `apply`. A parameter that is sharded and made from an rng stream that is not split starts with equal shards.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        in_specs: A `PartitionSpec`, or one for each argument after the module, or trees of them: see `jax.shard_map`.
            Keyword arguments are the same on all devices.
        out_specs: The same for the output.
        mesh: The mesh; by default that of the context (`jax.set_mesh`).
        variable_specs: Filter -> specs of the variables of these collections: a `PartitionSpec` for all of them; or a
            nested mapping from names to specs, as far down as need be; or a function that gets the collection's nested
            dict and returns one of these, such as `nn.get_partition_spec`, which reads them off boxes. What is left out
            is the same on all devices.
        split_rngs: Filter -> whether the rng stream differs from device to device, or the axis or axes of the mesh
            along which it does. Streams that no filter matches are the same everywhere.
        axis_names: The axes of the mesh to run over; by default all.
        check_vma: Check that what goes out without an axis is the same along it, and sum gradients along axes where
            their primals are the same: see `jax.shard_map`.
        variables: The collections that are available inside, besides those in `variable_specs`.
        rngs: The rng streams that are available inside.
        methods: See `checkpoint`.

    Returns:
        A subclass with the same fields, whose instances are named `Shard_map…`; or a function with the signature of
        `fn`. Inside, the names in `Partitioned` boxes are those of the whole variable; only axes that are not mapped
        over constrain layouts there.

    Raises:
        ShardingError: There is no mesh; a spec names an unknown axis or variable, or does not fit a shape; what goes
            out without an axis differs along it.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> from liftax import nn
        >>> mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
        >>> class Fit(nn.Module):
        ...     @functools.partial(nn.shard_map, mesh=mesh, in_specs=P('data'), out_specs=(P(), P()),
        ...                        split_rngs={'dropout': True})
        ...     @nn.compact
        ...     def __call__(self, x):  # x is one device's part of the batch
        ...         x = nn.Dropout(0.5, deterministic=False)(x)
        ...         loss, pull = nn.vjp(lambda mdl, x: jax.lax.pmean((mdl(x) ** 2).mean(), 'data'), nn.Dense(2), x)
        ...         return loss, pull(jnp.ones(()))[0]['params']  # of the whole batch, on every device
        >>> keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
        >>> (loss, gradient), variables = jax.jit(Fit().init_with_output)(keys, jnp.ones((8, 3)))
        >>> loss.shape, jax.tree.map(jnp.shape, gradient)
        ((), {'bias': (2,), 'kernel': (3, 2)})
    """
    if is_class(target):
        return class_form(
            shard_map, target, methods, in_specs=in_specs, out_specs=out_specs, mesh=mesh,
            variable_specs=variable_specs, split_rngs=split_rngs, axis_names=axis_names, check_vma=check_vma,
            variables=variables, rngs=rngs,
        )  # fmt: skip
    if not isinstance(variable_specs, Mapping):
        raise errors.ShardingError(
            f"shard_map: variable_specs={variable_specs!r} is not a mapping from collections to specs, such as "
            "{'params': PartitionSpec('model')}."
        )
    given = (*variable_specs.items(), (variables, P()))
    of_groups = tuple(filter_ for filter_, _ in given)
    args_specs = tuple(in_specs) if isinstance(in_specs, list) else in_specs

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(SHARD_MAP, target, mdl, args, kwargs, of_groups, rngs)
        packed = call.packed
        specs = _Specs(mesh, axis_names, f"shard_map at {packed.where}")
        specs.check_types(in_specs=in_specs, out_specs=out_specs)
        into = [
            tuple(specs.of_variables(spec, tree) for tree in group)
            for (_, spec), group in zip(given, packed.groups, strict=True)
        ]
        keys, key_specs = _spread(packed.keys, split_rngs, specs)
        leaves, treedef = jax.tree.flatten(call.kwargs)
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)}
        specs.check(specs.matched(args_specs, call.args, "in_specs"), "argument")
        inputs = (specs.placed(packed.groups, tuple(into)), specs.placed(keys, key_specs), call.args, arrays)

        def run(groups: Any, keys: Any, args: Any, arrays: Any) -> tuple[Any, tuple[State, ...], Any]:
            keys = tuple(
                {k: key.reshape(key.shape[len(spec[k]) :]) for k, key in ours.items()}
                for ours, spec in zip(keys, key_specs, strict=True)
            )
            more = treedef.unflatten([arrays.get(i, x) for i, x in enumerate(leaves)])
            out, (state, effects) = call.run(groups, keys, args, more)
            return out, grouped(state, of_groups), effects

        def mapped(fn: Any, out_specs: Any) -> Any:
            return jax.shard_map(
                fn, mesh=mesh, in_specs=(tuple(into), key_specs, args_specs, P()), out_specs=out_specs,
                axis_names=axis_names, check_vma=check_vma,
            )  # fmt: skip

        out_of: list[Any] = [spec if isinstance(spec, P) else None for _, spec in given]
        if None in out_of and any(not filters.is_empty(mutable) for mutable in packed.mutable):
            found: list[tuple[State, ...]] = []
            jax.eval_shape(mapped(lambda *inputs: found.append(run(*inputs)[1]) or (), ()), *inputs)
            types = jax.tree.map(jax.typeof, found[0])
            for i, (_, spec) in enumerate(given):
                out_of[i] = out_of[i] or State(*(specs.of_state(spec, part) for part in types[i]))
        out_of = [P() if spec is None else spec for spec in out_of]
        specs.check_names(given)

        def pure(groups: Any, keys: Any, args: Any, arrays: Any) -> Any:
            out, states, effects = run(groups, keys, args, arrays)
            specs.check(specs.matched(out_specs, out, "out_specs"), "output", inside=True)
            for i, state in enumerate(states):
                specs.check(specs.matched(out_of[i], state, "variable_specs"), "variable", inside=True)
            return out, states, effects

        out, states, effects = mapped(call.named(pure), (out_specs, tuple(out_of), P()))(*inputs)
        packed.commit(Run(ungrouped(states, len(packed.roots)), effects))
        return out

    return function_form(called, target, SHARD_MAP)


def _spread(
    keys: Sequence[Mapping[str, PRNGKey]], split_rngs: Mapping[Filter, Any], specs: "_Specs"
) -> tuple[Any, Any]:
    """Return, for each root, the keys, split along axes of the mesh where asked for, and their specs."""
    new: list[dict[str, PRNGKey]] = []
    spec: list[dict[str, P]] = []
    for ours in keys:
        new.append({})
        spec.append({})
        for stream, key in ours.items():
            along = next((axes for f, axes in split_rngs.items() if filters.in_filter(f, stream)), False)
            if isinstance(along, bool):
                along = specs.axes if along else ()
            along = P(*((along,) if isinstance(along, str) else along))
            specs.check_axes(along, f"split_rngs, for the stream {stream!r},")
            sizes = tuple(specs.sizes[axis] for axis in along)
            new[-1][stream] = jax.random.split(key, sizes) if sizes else key
            spec[-1][stream] = along
    return tuple(new), tuple(spec)


class _Specs:
    """What specs say about values, and whether they fit.

    Args:
        mesh: the mesh, or None for that of the context.
        axis_names: the axes to map over; none for all.
        where: the beginning of an error text.
    """

    def __init__(self, mesh: Any, axis_names: Set[AxisName], where: str):
        self.mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
        self.where = where
        if self.mesh.empty:
            raise errors.ShardingError(
                f"{where}: there is no mesh to run over. Pass mesh=jax.make_mesh((devices,), ('data',)), or call this "
                "under jax.set_mesh(mesh)."
            )
        self.sizes = dict(self.mesh.shape)
        self.axes = tuple(a for a in self.mesh.axis_names if not axis_names or a in axis_names)
        self.seen: set[tuple[str, ...]] = set()

    def of_variables(self, spec: Any, tree: Mapping[str, Any], inside: bool = False) -> dict[str, Any]:
        """Return a spec for each array in `{collection: nested dict}`, checked."""
        full = {col: self._of_tree(spec, sub, (col,)) for col, sub in tree.items()}
        if not inside:
            self.check(self.matched(full, tree, "variable_specs"), "variable")
        return full

    def of_state(self, spec: Any, roots: Sequence[Mapping[Any, Any]]) -> Any:
        """Return a spec for each array of what was written: (collection, *path, name) -> value."""
        trees = updated([{}] * len(roots), roots)
        full = [self.of_variables(spec, tree, inside=True) for tree in trees]
        return tuple({key: get(tree, key) for key in written} for tree, written in zip(full, roots, strict=True))

    def _of_tree(self, spec: Any, tree: Any, path: tuple[str, ...]) -> Any:
        if callable(spec):
            spec = spec(tree)
        if isinstance(spec, Mapping) and isinstance(tree, Mapping):
            self.seen.update((*path, name) for name in tree)
            return {name: self._of_tree(spec.get(name, P()), sub, (*path, name)) for name, sub in tree.items()}
        if meta.is_box(spec) or not (spec is None or isinstance(spec, P)):
            raise errors.ShardingError(
                f"{self.where}: variable_specs has {spec!r} for {'/'.join(path)}. Expected a PartitionSpec, a nested "
                "mapping from names to these, or a function that returns one of them."
            )
        return jax.tree.map(lambda _: spec or P(), tree)

    def check_names(self, given: Sequence[tuple[Filter, Any]]) -> None:
        """Raise ShardingError for a name in a nested mapping that no variable has, in a collection that is there."""
        collections = {path[0] for path in self.seen}
        for filter_, spec in given:
            if not isinstance(filter_, str) or filter_ not in collections:
                continue
            for path in _paths(spec):
                if (filter_, *path) not in self.seen:
                    known = {"/".join(p) for p in self.seen}
                    name = "/".join((filter_, *path))
                    raise errors.ShardingError(
                        f"{self.where}: variable_specs has a spec for {name}, which does not exist."
                        f"{errors.nearest(name, known)}"
                    )

    def matched(self, prefix: Any, tree: Any, argument: str) -> list[tuple[P, str, Any]]:
        """Return (spec, path, value) for each array in `tree`."""
        try:
            full = jax.tree.broadcast(prefix, tree)
        except ValueError as error:
            raise errors.ShardingError(
                f"{self.where}: {argument}={prefix!r} does not have the structure of what it is for: {error}"
            ) from None
        paths = jax.tree.leaves_with_path(tree)
        return [(spec, _text(path), x) for spec, (path, x) in zip(jax.tree.leaves(full), paths, strict=True)]

    def check_types(self, **given: Any) -> None:
        """Raise ShardingError unless every leaf is a PartitionSpec."""
        for argument, specs in given.items():
            for x in jax.tree.leaves(specs):
                if not isinstance(x, P):
                    raise errors.ShardingError(f"{self.where}: {argument} has {x!r}, which is not a PartitionSpec.")

    def check(self, values: Sequence[tuple[P, str, Any]], what: str, inside: bool = False) -> None:
        """Raise ShardingError for a value that its spec does not fit: a whole one, or a shard `inside`."""
        for spec, path, x in values:
            self.check_axes(spec, f"The spec of the {what} {path}")
            shape = np.shape(x)
            if len(spec) > len(shape):
                raise errors.ShardingError(
                    f"{self.where}: the {what} {path} has shape {shape}, and its spec {spec} has {len(spec)} entries. "
                    f"Give it one with at most {len(shape)}: PartitionSpec() if it is the same on all devices."
                )
            if inside:
                varying = getattr(getattr(jax.typeof(x), "manual_axis_type", None), "varying", ())
                differs = sorted(a for a in varying if a in self.axes and a not in _names(spec))
                if differs:
                    raise errors.ShardingError(
                        f"{self.where}: the {what} {path} differs from device to device along {differs[0]!r}, and its "
                        f"spec {spec} says that it is the same. {_remedy(what, path, differs[0])}"
                    )
                continue
            for i, entry in enumerate(spec):
                parts = math.prod(self.sizes[axis] for axis in _names((entry,)))
                if shape[i] % parts:
                    raise errors.ShardingError(
                        f"{self.where}: the {what} {path} has shape {shape}, and its spec {spec} splits dimension {i} "
                        f"into {parts}, which does not divide {shape[i]}."
                    )

    def check_axes(self, spec: P, what: str) -> None:
        """Raise ShardingError for an axis that is not mapped over."""
        for axis in _names(spec):
            if axis not in self.axes:
                raise errors.ShardingError(
                    f"{self.where}: {what} names the axis {axis!r}, which is not among the axes to run over: "
                    f"{', '.join(map(repr, self.axes))}.{errors.nearest(str(axis), map(str, self.axes))}"
                )

    def placed(self, tree: Any, specs: Any) -> Any:
        """Lay values out by `specs` where a mesh with explicit axes demands it."""
        if AxisType.Explicit not in self.mesh.axis_types:
            return tree
        return jax.tree.map(lambda x, spec: jax.sharding.reshard(x, NamedSharding(self.mesh, spec)), tree, specs)


def _remedy(what: str, path: str, axis: Any) -> str:
    if what == "output":
        return f"Name the axis in out_specs, or reduce the value: jax.lax.pmean(y, {axis!r})."
    if path.startswith("params/"):
        return "Name the axis in variable_specs, or don't split the rng stream 'params' (split_rngs)."
    return f"Name the axis in variable_specs, or reduce what is written: jax.lax.pmean(x, {axis!r})."


def _names(spec: Any) -> tuple[Any, ...]:
    """Return the mesh axes in a spec."""
    entries = (entry if isinstance(entry, tuple | list) else (entry,) for entry in spec)
    return tuple(axis for entry in entries for axis in entry if axis is not None)


def _paths(spec: Any) -> Iterator[tuple[str, ...]]:
    """Yield the path of every name in a nested mapping of specs."""
    for name, sub in spec.items() if isinstance(spec, Mapping) else ():
        yield (name,)
        yield from ((name, *path) for path in _paths(sub))


def _text(path: Sequence[Any]) -> str:
    """Return a key path as text; that of a variable, in a dict by (collection, *path, name), as one with slashes."""
    keys = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
    flat = next((key for key in keys if isinstance(key, tuple)), None)
    if flat is not None:
        return "/".join(flat)
    return "/".join(map(str, keys)) or "(the whole of it)"
