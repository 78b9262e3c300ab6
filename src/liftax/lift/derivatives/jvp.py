"""Lifted forward mode: a function of a module and its derivative along one direction, in one sweep.

    jvp : (Module -> a -> b) -> Module -> a -> T a -> T variables -> (b, T b)

One call to `jax.jvp`. Collections that `variable_tangents` names are primals; whatever it leaves out (a collection, a
submodule, a variable) has a tangent of zero.

Source: `jax.jvp`; `flax.linen.jvp` for the signature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax.ad.checks import check_pair_of_sequences
from liftax.ad.notes import tangents_explained
from liftax.core.packing.targets import is_target
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.complete import filled
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

JVP = Transform(
    "jvp", "(fn, module, primals, tangents, variable_tangents)", mode="forward", filters=("wrt", "variables")
)


@described(JVP)
def jvp(
    fn: Callable[..., Any],
    mdl: Any,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    variable_tangents: Any = None,
    variables: Filter = True,
    rngs: Filter = True,
    has_aux: bool = False,
    wrt: Filter | None = None,
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
            modules. What it leaves out has a tangent of zero: a collection, a submodule, a variable. None: all of it.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.
        has_aux: `fn` returns a pair `(output, aux)`, and `aux` is not differentiated.
        wrt: Which collections of variables vary: a filter. None: those in `variable_tangents`.

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
    check_pair_of_sequences(primals, tangents, JVP)
    named = _named(mdl, variable_tangents) if wrt is None else wrt
    operands = Operands.of(
        JVP, mdl, primals, wrt=named, wrt_argument=None if wrt is None else "wrt", variables=variables, rngs=rngs
    ).created(fn, has_aux)  # fmt: skip
    vector = operands.vector(variable_tangents, tangents)
    with tangents_explained(primals, tangents, JVP):
        out, out_t, (aux, run) = jax.jvp(operands.pure(fn, has_aux), operands.point, vector, has_aux=True)
    operands.commit(run)
    return (out, out_t, aux) if has_aux else (out, out_t)


def _named(mdl: Any, variable_tangents: Any) -> tuple[str, ...]:
    """Return the collections that tangents are given for; none where these are not shaped like the target."""
    try:
        leaves = jax.tree.structure(mdl, is_leaf=is_target).flatten_up_to(variable_tangents)
    except ValueError:  # `Operands.vector` explains it
        return ()
    trees = [x for x in leaves if isinstance(x, Mapping)]
    return tuple(dict.fromkeys(col for leaf in trees for col, tree in leaf.items() if filled(tree)))
