"""Lifted Laplacian and divergence: kinetic energies, scores and log-density changes, inside the model.

    laplacian  : (Module -> R^n -> b) -> Module -> R^n -> (b, b)
    divergence : (Module -> R^n -> R^n) -> Module -> R^n -> (R^n, R)

One call to `ad.laplacian` or `ad.divergence`.

Source: see `liftax.ad.laplacian`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from liftax import ad, errors
from liftax.ad.laplacian import check_samples
from liftax.core.packing.targets import is_target
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.operands import Operands
from liftax.typing import Filter

LAPLACIAN = Transform("laplacian", "(fn, module, *primals)", mode="forward")
DIVERGENCE = Transform("divergence", "(fn, module, *primals)", output="like the first argument", mode="forward")


@described(LAPLACIAN)
def laplacian(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    samples: int | None = None,
    sparsity: bool | Literal["auto"] = "auto",
    stream: str = "hutchinson",
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Compute a function of a module and its Laplacian in its first argument, in one forward pass.

    All numbers of the first argument are variables of one function, those along a leading axis included: for a batch of
    points map over `apply` with `jax.vmap`. Outside of a module use `lx.laplacian`.

    Args:
        fn: Called as `fn(mdl, *primals)`; its output is a tree of floating-point arrays.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: The arguments. The Laplacian is taken in all numbers of the first one, a tree of real arrays.
        has_aux: `fn` returns a pair `(output, aux)`.
        samples: Estimate from so many random directions (Rademacher vectors) instead of all unit vectors.
        sparsity: Whether a number keeps only the derivatives with respect to the arguments that it depends on: "auto"
            does so while they are few, True as long as they are not all, False never. The result is the same.
        stream: The rng stream that random directions are drawn from.
        variables: The collections that `fn` may use.
        rngs: The rng streams that `fn` may use.

    Returns:
        `(out, laplacian)`, or `(out, laplacian, aux)` if `has_aux`; `laplacian` has the structure, the shapes and the
        dtypes of `out`.

    Raises:
        NonDifferentiablePrimalError: The first argument is not floating-point.
        InvalidRngError: `samples` is given, and the stream is not, in `init` as in `apply`.
        ArityError: `samples` is not a positive integer, or `sparsity` is not one of its values.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, AuxError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Wave(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return -self.param('width', nn.initializers.ones, ()) * jnp.sum(r**2)
        >>> class KineticEnergy(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         _, lap = nn.laplacian(lambda mdl, r: mdl(r), Wave(), r)
        ...         return -0.5 * lap
        >>> print(KineticEnergy().apply({'params': {'Wave_0': {'width': 0.5}}}, jnp.zeros(3)))
        1.5
    """
    transform = functools.partial(ad.laplacian, sparsity=sparsity)
    return _trace(LAPLACIAN, transform, fn, mdl, primals, has_aux, samples, stream, variables, rngs)


@described(DIVERGENCE)
def divergence(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    samples: int | None = None,
    stream: str = "hutchinson",
    variables: Filter = True,
    rngs: Filter = True,
) -> tuple[Any, ...]:
    """Compute a vector field of a module and its divergence: the trace of its Jacobian in the first argument.

    Arguments and errors are those of `laplacian`, apart from `sparsity`. Outside of a module use `lx.divergence`.

    Returns:
        `(out, divergence)`, or `(out, divergence, aux)` if `has_aux`; `out` is like the first argument, `divergence` a
        scalar.

    Raises:
        NonDifferentiableOutputError: The output is not like the first argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Flow(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         velocity, div = nn.divergence(lambda mdl, x: mdl(x), nn.Dense(2), x)
        ...         return velocity, div
        >>> variables = {'params': {'Dense_0': {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0]]), 'bias': jnp.zeros(2)}}}
        >>> Flow().apply(variables, jnp.ones(2))
        (Array([4., 6.], dtype=float32), Array(5., dtype=float32))
    """
    return _trace(DIVERGENCE, ad.divergence, fn, mdl, primals, has_aux, samples, stream, variables, rngs)


def _trace(
    transform: Transform,
    derivative: Callable[..., Any],
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    samples: int | None,
    stream: str,
    variables: Filter,
    rngs: Filter,
) -> tuple[Any, ...]:
    key = None
    check_samples(samples, transform)
    if samples is not None:
        first = next((x for x in jax.tree.leaves(mdl, is_leaf=is_target) if is_target(x)), None)
        scope = None if first is None else first.scope
        if scope is not None and not scope.has_rng(stream):  # one of 'params' would move those of the parameters
            raise errors.InvalidRngError(
                f"{transform} at {scope.path_text} got samples={samples}, and there is no rng stream {stream!r} to "
                "draw the "
                f"directions from. Pass rngs={{{stream!r}: jax.random.key(seed), …}}, to init as well as to apply."
            )
        key = None if scope is None else scope.make_rng(stream)
    operands = Operands.of(transform, mdl, primals, argnums=0, variables=variables, rngs=rngs, dtypes={})
    run, fixed = operands.pure(fn, has_aux), operands.packed.groups[0]

    def pure(x: Any) -> Any:
        return run(fixed, x)

    out, result, (aux, done) = derivative(pure, primals[0], has_aux=True, key=key, samples=samples)
    operands.commit(done)
    return (out, result, aux) if has_aux else (out, result)
