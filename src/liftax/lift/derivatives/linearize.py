"""Lifted linear maps: the derivative of a function of a module as a map, and the transpose of a linear one.

    linearize        : (Module -> a -> b) -> Module -> a -> (b, T a -o T b)
    linear_transpose : (Module -> a -o b) -> Module -> a -> (CT b -o CT a)

One call to `jax.linearize` or `jax.linear_transpose`.

Source: `jax.linearize`, `jax.linear_transpose`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from liftax import errors
from liftax.ad.checks import explain_cotangent
from liftax.ad.notes import noted, tangents_explained
from liftax.core.packing.run import Run, State, no_state
from liftax.explain.transform import Transform, described
from liftax.explain.values import describe, type_of
from liftax.lift.machinery.checks import check_output
from liftax.lift.machinery.complete import Completion, complete
from liftax.lift.machinery.operands import Layout, Operands
from liftax.typing import Filter

LINEARIZE = Transform(
    "linearize", "(fn, module, *primals)", mode="forward", options=frozenset({"argnums"}), filters=("wrt", "variables")
)
LINEAR_TRANSPOSE = dataclasses.replace(LINEARIZE, name="linear_transpose", mode="reverse")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class JvpFn:
    """Map tangents of what a function varies in to the tangent of its output. Not made by hand: see `linearize`.

    A pytree: it can be returned from `jax.jit`, is a legal residual of `jax.custom_vjp`, and can be vmapped over
    tangents.
    """

    jax_jvp: Any
    layout: Layout = dataclasses.field(metadata={"static": True})
    types: tuple[Any, tuple[jax.ShapeDtypeStruct, ...]] = dataclasses.field(metadata={"static": True})

    def __call__(self, *tangents: Any) -> Any:
        """Return the tangent of the output.

        Args:
            *tangents: Those of the variables, if they vary (`{collection: tree}`; what is left out has a tangent of
                zero), and one for each argument that varies.

        Raises:
            TangentError: A tangent does not fit, or there are too many or too few.
        """
        variables, *args = self.types[0].unflatten(self.types[1])
        given = tangents if self.layout.with_variables else ({}, *tangents)
        if len(given) != 1 + len(args):
            raise errors.TangentError(
                f"linearize: the map takes {len(args) + self.layout.with_variables} tangents, "
                f"{'that of the variables first, ' if self.layout.with_variables else ''}one for each argument that "
                f"varies, and got {len(tangents)}."
            )
        if self.layout.with_variables:
            what = "linearize: the tangent of the variables"
            roots = self.layout.view.disassemble(given[0], what, errors.TangentError)
            how = Completion(what, "tangent", "the target", errors.TangentError, missing_is_zero=True)
            variables_t = tuple(complete(v, t, how) for v, t in zip(variables, roots, strict=True))
        else:
            variables_t = variables
        with tangents_explained(args, given[1:], LINEARIZE):
            return self.jax_jvp(variables_t, *given[1:])

    def __repr__(self) -> str:
        return f"JvpFn({', '.join(map(describe, self.types[1]))})"


@described(LINEARIZE)
def linearize(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    wrt: Filter | None = False,
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Run a function of a module, and return its derivative as a linear map that is ready to be used many times.

    For one tangent use `jvp`; outside of a module use `jax.linearize`.

    Args:
        fn: Called as `fn(mdl, *primals)`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: The arguments.
        wrt: Which collections of variables vary: a filter.
        argnums: Which arguments vary: a number, several, or None for all. Counted without the module.
        has_aux: `fn` returns a pair `(output, aux)`.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `(out, jvp_fn)`, or `(out, jvp_fn, aux)` if `has_aux`. `jvp_fn(*tangents)` takes one tangent for each argument
        that varies, and if `wrt` is given, the tangents of the variables before them: `{collection: tree}`, what it
        leaves out being zero. It returns the tangent of the output. It is a pytree.

    Raises:
        TangentError: (from `jvp_fn`) a tangent does not fit.
        ArityError: `argnums` names no argument, or nothing varies.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, AuxError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.param('scale', nn.initializers.ones, ()) * x**2
        >>> class Responses(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         y, jvp_fn = nn.linearize(lambda mdl, x: mdl(x), Scale(), x, wrt='params')
        ...         return y, jvp_fn({'params': {'scale': 1.0}}, 0.0), jvp_fn({}, 1.0)
        >>> print(*Responses().apply({'params': {'Scale_0': {'scale': 2.0}}}, 3.0))
        18.0 9.0 12.0
    """
    operands = Operands.of(
        LINEARIZE, mdl, primals, wrt=wrt or False, argnums=argnums, variables=variables, rngs=rngs
    ).created(fn, has_aux)  # fmt: skip
    with noted():
        out, jax_jvp, (aux, run) = jax.linearize(operands.pure(fn, has_aux), *operands.point, has_aux=True)
    operands.commit(run)
    leaves, treedef = jax.tree.flatten(operands.point)
    jvp_fn = JvpFn(jax_jvp, operands.layout, (treedef, tuple(type_of(x) for x in leaves)))
    return (out, jvp_fn, aux) if has_aux else (out, jvp_fn)


@described(LINEAR_TRANSPOSE)
def linear_transpose(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    wrt: Filter | None = False,
    argnums: int | Sequence[int] | None = None,
    variables: Filter = True,
    rngs: Filter = True,
) -> Callable[[Any], Any]:
    """Return the transpose of a function of a module that is linear: without a run, and without residuals.

    Where the function is not linear use `vjp`; outside of a module use `jax.linear_transpose`.

    Args:
        fn: Called as `fn(mdl, *primals)`; linear in what varies, all of it together. It may create variables while
            initializing; other state it may not write, because it is not run.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: The arguments. Of those that vary only shape and dtype count.
        wrt: Which collections of variables vary: a filter.
        argnums: Which arguments vary: a number, several, or None for all. Counted without the module.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `transposed(out_ct)`: a tuple of the cotangents of the arguments that vary; that one cotangent if `argnums` is
        a number; and if `wrt` is given, a tuple that begins with the cotangents of the variables.

    Raises:
        ModifyScopeVariableError: `fn` writes a variable.
        CotangentError: (from `transposed`) the cotangent does not fit the output.
        NotImplementedError, AssertionError: (from `transposed`, by JAX, with a note) `fn` is not linear in what varies.
        ArityError: `argnums` names no argument, or nothing varies.
        NonDifferentiablePrimalError, TransformTargetError, UnboundModuleError, InvalidScopeError,
            UnknownCollectionError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Tied(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         encode = nn.Dense(3, use_bias=False)
        ...         decode = nn.linear_transpose(lambda mdl, x: mdl(x), encode, x, argnums=0)
        ...         return decode(nn.relu(encode(x)))
        >>> x = jnp.array([1.0, 2.0])
        >>> Tied().apply({'params': {'Dense_0': {'kernel': jnp.ones((2, 3))}}}, x).tolist()
        [9.0, 9.0]
    """
    operands = Operands.of(
        LINEAR_TRANSPOSE, mdl, primals, wrt=wrt or False, argnums=argnums, variables=variables, rngs=rngs, dtypes={}
    )
    at_zero = tuple(jax.tree.map(_zeros, x) for x in operands.diff)  # where any linear function is defined
    operands = dataclasses.replace(operands, diff=at_zero)
    state = no_state(len(operands.packed.roots))
    if any(scope.store.flags.get("initializing") for scope in operands.packed.roots):
        _, (_, first) = operands.pure(fn)(*operands.point)
        operands, state = operands.with_new(first), first.state
    pure = operands.pure(fn, check=lambda out: check_output(out, operands.packed, fn))
    runs: list[Run] = []
    outputs: list[Any] = []

    def linear(*point: Any) -> Any:
        out, (_, run) = pure(*point)
        runs.append(run)
        outputs.append(jax.tree.map(type_of, out))
        return out

    transpose = jax.linear_transpose(linear, *operands.point)
    _refuse_writes(runs[0].state, state, operands)
    operands.commit(Run(state, runs[0].effects))

    def transposed(out_ct: Any) -> Any:
        try:
            entries = transpose(out_ct)
        except (TypeError, ValueError) as error:
            explain_cotangent(outputs[0], out_ct, error, LINEAR_TRANSPOSE)
            raise
        except (NotImplementedError, AssertionError) as error:  # what JAX raises for a step that is not linear
            error.add_note("liftax: the function of nn.linear_transpose is not linear in what varies. Use nn.vjp.")
            raise
        return operands.layout(entries)

    return transposed


def _refuse_writes(found: State, first: State, operands: Operands) -> None:
    """Raise for a variable that is written and was not created by the first run: there is no value to write."""
    for root, written, created in zip(operands.packed.roots, found.written, first.created, strict=True):
        for path in written.keys() - created.keys():
            raise errors.ModifyScopeVariableError(
                f"linear_transpose: {'/'.join(path)} at {root.path_text} is written, and a function that is transposed "
                "is never run: there is no value to write. Write it outside, or use vjp."
            )


def _zeros(x: Any) -> Any:
    return jnp.zeros(jnp.shape(x), type_of(x).dtype)
