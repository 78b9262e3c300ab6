"""Views of variables: inside, a module sees its variables through a function.

    map_variables     : (Module -> a -> b) -> (Module -> a -> b)
    add_metadata_axis : the same, for the axes that boxes tell of
    named_call        : the same, for a name in profiles

No call to JAX: the variables are transformed on the way in, and what was written is transformed on the way out.

Source: `flax.linen.map_variables`, `flax.linen.add_metadata_axis` and `flax.linen.named_call` for the signatures.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax import errors
from liftax.core import filters, meta
from liftax.core.packing.run import Run, State, no_state
from liftax.core.packing.targets import leaves_of
from liftax.core.scope import copied
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.axes import axes_of, grouped
from liftax.lift.machinery.forms import Call, Target, as_method, class_form, function_form, is_class
from liftax.lift.machinery.paths import flat, has, updated
from liftax.typing import Filter

MAP_VARIABLES = Transform(
    "map_variables",
    "(fn, …)(module, *args)",
    filters=("mapped_collections, variables; init, mutable",),
    to_create=(
        "Its mapped collections are created only if asked for: pass init=self.is_initializing(), and trans_out_fn if "
        "what is stored is not what the function sees."
    ),
    any_output=True,
)
ADD_METADATA_AXIS = Transform("add_metadata_axis", "(fn, …)(module, *args)")
NAMED_CALL = Transform("named_call", "(fn)(module, *args)")


def _unchanged(variables: Any) -> Any:
    return variables


@described(MAP_VARIABLES)
def map_variables(
    target: Target,
    mapped_collections: Filter = True,
    trans_in_fn: Callable[[Any], Any] = _unchanged,
    trans_out_fn: Callable[[Any], Any] = _unchanged,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
) -> Target:
    """Let a function of a module see its variables through another function.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        mapped_collections: The collections that are seen through `trans_in_fn`.
        trans_in_fn: `{collection: tree} -> {collection: tree}`: the view.
        trans_out_fn: The way back: what is stored, from the view.
        init: Where the mapped collections may be written, create variables first, in a run of `fn` without the view;
            store `trans_out_fn` of them. Most often `self.is_initializing()`.
        mutable: The mapped collections may be written inside. Without `init` and `mutable` they can't.
        rngs: The rng streams that are available inside.
        variables: Other collections that are available inside.
        methods: See `checkpoint`.

    Returns:
        A subclass with the same fields, whose instances are named `Map_variables…`; or a function with the signature
        of `fn`.

    Raises:
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Signs(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         Dense = nn.map_variables(nn.Dense, 'params', lambda v: jax.tree.map(jnp.sign, v), init=True)
        ...         return Dense(1, use_bias=False, name='dense')(x)
        >>> Signs().apply({'params': {'dense': {'kernel': jnp.array([[0.3], [-2.0]])}}}, jnp.array([1.0, 4.0]))
        Array([-3.], dtype=float32)
    """
    if is_class(target):
        return class_form(
            map_variables, target, methods, mapped_collections=mapped_collections, trans_in_fn=trans_in_fn,
            trans_out_fn=trans_out_fn, init=init, mutable=mutable, rngs=rngs, variables=variables,
        )  # fmt: skip

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(MAP_VARIABLES, target, mdl, args, kwargs, (mapped_collections, variables), rngs)
        packed = call.packed
        stored, others = packed.groups
        writable = tuple(filters.intersect(m, mapped_collections) for m in packed.mutable)

        def through(trans_fn: Callable[[Any], Any], roots: Sequence[Any]) -> tuple[Any, ...]:
            """Return the variables of each root through a function, which sees those of one module as one tree."""
            if len(packed.view.slots) > 1 or len(roots) == 1:
                return tuple(trans_fn(copied(tree)) if tree else {} for tree in roots)
            view, treedef = packed.view, packed.view.treedef
            (tree,) = treedef.flatten_up_to(view.assemble(roots))
            seen = treedef.unflatten([trans_fn(copied(tree)) if tree else {}])
            return view.disassemble(seen, "map_variables: what its functions return", errors.TransformTargetError)

        def stored_of(views: Any) -> tuple[dict[str, Any], ...]:
            """Return what is to be stored, of the mapped collections that may be written."""
            mine = [
                {col: sub for col, sub in tree.items() if filters.in_filter(filter_, col)}
                for tree, filter_ in zip(views, writable, strict=True)
            ]
            return through(trans_out_fn, mine)

        creates = init and any(not filters.is_empty(w) for w in writable)
        first, fresh = None, no_state(len(packed.roots)).created
        if creates:
            _, (state, first) = call.run((stored, others), packed.keys, call.args, call.kwargs)
            fresh = grouped(state, (mapped_collections, variables))[0].created  # what was there is stored already
            made = stored_of(updated([{} for _ in packed.roots], fresh))
            stored = updated(stored, tuple(flat(tree) if tree else {} for tree in made))
            draws = packed.after(first, again=filters.subtract(True, mapped_collections))
            call = call.with_(counters=draws.counters, replay=draws.replay)
        views = through(trans_in_fn, stored)
        if not (init or mutable):
            call = call.with_(mutable=tuple(filters.subtract(m, mapped_collections) for m in packed.mutable))
        out, (state, effects) = call.run((views, others), packed.keys, call.args, call.kwargs)
        mapped, rest = grouped(state, (mapped_collections, variables))
        new = tuple({} for _ in packed.roots)
        if any(fresh) or any(mapped.written):
            new = tuple(flat(tree) if tree else {} for tree in stored_of(updated(views, mapped.written)))
        if first is not None:  # what creating took, for a transform around this one that runs it once more
            effects = dataclasses.replace(
                effects, drawn=tuple((*a, *b) for a, b in zip(first.drawn, effects.drawn, strict=True))
            )
        created = tuple(
            {key: x for key, x in values.items() if not has(tree, key)}
            for values, tree in zip(new, packed.groups[0], strict=True)
        )
        whole = State(
            tuple({**a, **b} for a, b in zip(new, rest.written, strict=True)),
            tuple({**a, **b} for a, b in zip(created, rest.created, strict=True)),
        )
        packed.commit(Run(whole, effects))
        return out

    return function_form(called, target, MAP_VARIABLES)


@described(ADD_METADATA_AXIS)
def add_metadata_axis(
    target: Target,
    variable_axes: Mapping[Filter, Any] = {},
    metadata_params: Mapping[Any, Any] = {},
) -> Target:
    """Add an axis to the metadata of boxed variables, as `vmap` and `scan` do, and leave the values alone.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        variable_axes: Filter -> position of the axis.
        metadata_params: Handed to `add_axis` and `remove_axis` of boxes.

    Returns:
        See `map_variables`.

    Example:
        >>> from liftax import nn
        >>> nn.add_metadata_axis(nn.Dense, {'params': 0}, {'partition_name': 'layers'}).__name__
        'Map_variablesDense'
    """
    for entry in axes_of(variable_axes, ADD_METADATA_AXIS, allow_none=False):
        target = map_variables(
            target,
            entry.filter,
            trans_in_fn=lambda tree, axis=entry.into: meta.remove_axis(tree, axis, metadata_params),
            trans_out_fn=lambda tree, axis=entry.out: meta.add_axis(tree, axis, metadata_params),
            mutable=True,
        )
    return target


@described(NAMED_CALL)
def named_call(class_fn: Target, force: bool = True) -> Target:
    """Show a method or a function of a module under its name in profiles and compiled programs.

    Methods of modules are shown anyway; this is for functions.

    Args:
        class_fn: Called as `fn(mdl, *args, **kwargs)`.
        force: Has no effect; Linen's code may pass it.

    Returns:
        A function with the signature of `class_fn`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> def double(mdl, x):
        ...     return 2 * x
        >>> class Net(nn.Module):
        ...     def __call__(self, x):
        ...         return nn.named_call(double)(self, x)
        >>> 'Net.double' in jax.jit(lambda x: Net().apply({}, x)).lower(1.0).as_text(debug_info=True)
        True
    """

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        leaves_of(mdl, NAMED_CALL)
        method = as_method(class_fn, mdl)
        if method is not class_fn:
            return method(mdl, *args, **kwargs)
        with jax.named_scope(getattr(class_fn, "__name__", "named_call")):
            return class_fn(mdl, *args, **kwargs)

    return function_form(called, class_fn, NAMED_CALL)
