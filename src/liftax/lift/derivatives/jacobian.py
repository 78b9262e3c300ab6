"""Lifted Jacobians and Hessians: every derivative of every output, in arguments and variables.

    jacobian : (Module -> a -> b) -> Module -> a -> Jacobian
    hessian  : (Module -> a -> b) -> Module -> a -> Hessian

One call to `ad.jacobian.jacobian_of` or `hessian_of`. `jacfwd` makes a product for each number that varies, `jacrev`
one for each number in the output, and `jacobian` takes the one with fewer.

The structure is that of JAX. Where the output has an array of shape `s`, the Jacobian has the operands' tree, and in
the place of an operand's array of shape `t` an array of shape `s + t`. In the Hessian that array is in turn replaced by
the operands' tree, with arrays of shape `s + t + u`.

Source: `jax.jacfwd`, `jax.jacrev`, `jax.hessian`; `liftax.ad.jacobian`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from liftax.ad.checks import check_jacobian_types
from liftax.ad.jacobian.matrix import Format, Mode, Options, hessian_of, jacobian_of
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.arrays import split
from liftax.lift.machinery.operands import Layout, Operands
from liftax.typing import Filter

JACREV = Transform(
    "jacrev",
    "(fn, module, *primals)",
    mode="reverse",
    options=frozenset({"argnums", "holomorphic"}),
    filters=("wrt", "variables"),
)
JACFWD = dataclasses.replace(JACREV, name="jacfwd", mode="forward")
HESSIAN = dataclasses.replace(JACREV, name="hessian", mode="forward over reverse")
JACOBIAN = dataclasses.replace(HESSIAN, name="jacobian")


@described(JACOBIAN)
def jacobian(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    argnums: int | Sequence[int] | None = 0,
    wrt: Filter | None = False,
    has_aux: bool = False,
    holomorphic: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
    mode: Mode | None = None,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Any:
    """Return the Jacobian of a function of a module, in whichever mode takes fewer products.

    Arguments, result and errors are those of `jacrev`; `mode` is "forward", "reverse" or None. Outside of a module use
    `lx.jacobian`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Heat(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, u):
        ...         return self.param('k', nn.initializers.ones, ()) * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1))
        >>> class Stiffness(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, u):
        ...         return nn.jacobian(lambda mdl, u: mdl(u), Heat(), u, sparsity='auto', format='bcoo')
        >>> matrix = Stiffness().apply({'params': {'Heat_0': {'k': 3.0}}}, jnp.arange(9.0))
        >>> print(matrix.nse, matrix.todense()[1])
        27 [ 3. -6.  3.  0.  0.  0.  0.  0.  0.]
    """
    operands_of = {"wrt": wrt or False, "argnums": argnums, "variables": variables, "rngs": rngs}
    options = Options(mode, chunk, sparsity, format, holomorphic)
    return _derivatives(JACOBIAN, jacobian_of, fn, mdl, primals, has_aux, options, operands_of)


@described(JACREV)
def jacrev(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    argnums: int | Sequence[int] | None = 0,
    wrt: Filter | None = False,
    has_aux: bool = False,
    holomorphic: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Any:
    """Return the Jacobian of a function of a module, row by row with reverse-mode differentiation.

    For fewer inputs than outputs use `jacfwd`, for a scalar output `grad`, outside of a module `jax.jacrev`.

    Args:
        fn: Called as `fn(mdl, *primals)`.
        mdl: The target: a bound Module, a Scope, or a tree of these.
        *primals: The arguments.
        argnums: Which arguments vary: a number, several, or None for all. Counted without the module.
        wrt: Which collections of variables vary too: a filter. With `argnums=()` variables alone vary.
        has_aux: `fn` returns a pair `(output, aux)`.
        holomorphic: `fn` is promised to be holomorphic in what varies, which is complex.
        variables: The other collections that `fn` may use.
        rngs: The rng streams that `fn` may use.
        chunk: How many products to make at a time, to bound memory; None for all.
        sparsity: "auto" finds which entries can differ from zero, and makes fewer products; or a pattern. See
            `lx.jacobian`.
        format: With `sparsity`, "dense" or "bcoo".

    Returns:
        The Jacobian, or `(Jacobian, aux)` if `has_aux`: a tree like the output, each array replaced by

        - the derivatives in the argument, if `argnums` is a number and `wrt` is False;
        - a tuple, with one entry for each of `argnums`, if `argnums` is None or a sequence and `wrt` is False;
        - a tuple whose first entry are the derivatives in the variables, `{collection: tree}` shaped like those of the
          target, and then one entry for each of `argnums`, if `wrt` is given.

        An array has the shape of the output's array and then that of the argument's or the variable's.

    Raises:
        NonDifferentiablePrimalError: Something that varies is an integer, a Boolean, or no array.
        ArityError: `argnums` names no argument, nothing varies, or an option does not fit.
        MissingPackageError, SparsityError: see `lx.jacobian`.
        TransformTargetError, UnboundModuleError, InvalidScopeError, UnknownCollectionError, AuxError: see `vjp`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Scale(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return self.param('scale', nn.initializers.ones, (2,)) * x**2
        >>> class Slopes(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.jacrev(lambda mdl, x: mdl(x), Scale(), x, wrt='params')
        >>> variables = {'params': {'Scale_0': {'scale': jnp.array([1.0, 2.0])}}}
        >>> in_params, in_x = Slopes().apply(variables, jnp.array([3.0, 4.0]))
        >>> in_params['params']['scale'].tolist(), in_x.tolist()
        ([[9.0, 0.0], [0.0, 16.0]], [[6.0, 0.0], [0.0, 16.0]])
    """
    operands_of = {"wrt": wrt or False, "argnums": argnums, "variables": variables, "rngs": rngs}
    options = Options("reverse", chunk, sparsity, format, holomorphic)
    return _derivatives(JACREV, jacobian_of, fn, mdl, primals, has_aux, options, operands_of)


@described(JACFWD)
def jacfwd(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    argnums: int | Sequence[int] | None = 0,
    wrt: Filter | None = False,
    has_aux: bool = False,
    holomorphic: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Any:
    """Return the Jacobian of a function of a module, column by column with forward-mode differentiation.

    Arguments, result and errors are those of `jacrev`, which is better for fewer outputs than inputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Curve(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, t):
        ...         return self.param('radius', nn.initializers.ones, ()) * jnp.array([t, t**2])
        >>> class Velocity(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, t):
        ...         return nn.jacfwd(lambda mdl, t: mdl(t), Curve(), t)
        >>> Velocity().apply({'params': {'Curve_0': {'radius': 3.0}}}, 2.0).tolist()
        [3.0, 12.0]
    """
    operands_of = {"wrt": wrt or False, "argnums": argnums, "variables": variables, "rngs": rngs}
    options = Options("forward", chunk, sparsity, format, holomorphic)
    return _derivatives(JACFWD, jacobian_of, fn, mdl, primals, has_aux, options, operands_of)


@described(HESSIAN)
def hessian(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    argnums: int | Sequence[int] | None = 0,
    wrt: Filter | None = False,
    has_aux: bool = False,
    holomorphic: bool = False,
    variables: Filter = True,
    rngs: Filter = True,
    mode: Mode = "forward",
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Any:
    """Return the Hessian of a function of a module: forward-mode over reverse-mode differentiation.

    Its product with a vector costs far less: `hvp`; its trace: `laplacian`. Outside of a module use `jax.hessian`.
    Arguments and errors are those of `jacrev`, and `mode` is that of `lx.hessian`: "reverse" serves a `custom_vjp`.

    Returns:
        The Hessian, or `(Hessian, aux)` if `has_aux`: the Jacobian as `jacrev` gives it, each array of which is
        replaced by the operands' derivatives again. For a scalar of one argument, an array, that is one array of shape
        `x.shape + x.shape`. With `wrt='params'` it is a pair, of a tree shaped like the
        variables and one shaped like the argument, each array of which is replaced by a pair of that kind again: for
        a parameter `k`, `H[0]['params']['k'][0]['params']['k']` is its second derivative, `H[0]['params']['k'][1]` the
        mixed one, and `H[1][1]` the Hessian in the argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Energy(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return self.param('k', nn.initializers.ones, ()) * r[0] * r[1]
        >>> class Stiffness(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return nn.hessian(lambda mdl, r: mdl(r), Energy(), r)
        >>> Stiffness().apply({'params': {'Energy_0': {'k': 3.0}}}, jnp.array([1.0, 2.0])).tolist()
        [[0.0, 3.0], [3.0, 0.0]]

        With respect to the parameters, too:

        >>> class Mixed(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, r):
        ...         return nn.hessian(lambda mdl, r: mdl(r), Energy(), r, wrt='params')
        >>> of_k, of_r = Mixed().apply({'params': {'Energy_0': {'k': 3.0}}}, jnp.array([1.0, 2.0]))
        >>> twice, mixed = of_k['params']['k']
        >>> float(twice['params']['k']), mixed.tolist(), of_r[0]['params']['k'].tolist(), of_r[1].tolist()
        (0.0, [2.0, 1.0], [2.0, 1.0], [[0.0, 3.0], [3.0, 0.0]])
    """
    operands_of = {"wrt": wrt or False, "argnums": argnums, "variables": variables, "rngs": rngs}
    options = Options(mode, chunk, sparsity, format, holomorphic)
    return _derivatives(HESSIAN, hessian_of, fn, mdl, primals, has_aux, options, operands_of)


def _derivatives(
    transform: Transform,
    make: Callable[..., Any],
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    has_aux: bool,
    options: Options,
    operands_of: Mapping[str, Any],
) -> Any:
    """Return what a Jacobian or a Hessian returns; `operands_of` are the other arguments of `Operands.of`."""
    options.check(transform)
    dtypes = {"holomorphic": options.holomorphic}
    operands = Operands.of(transform, mdl, primals, dtypes=dtypes, real=not options.holomorphic, **operands_of)
    operands = operands.created(fn, has_aux)
    run = operands.pure(fn, has_aux)

    def pure(*point: Any) -> Any:
        out, (aux, done) = run(*point)
        if not options.holomorphic:
            check_jacobian_types(out, [point[i] for i in operands.argnums], transform)
        return out, (out, split(aux), done)  # JAX maps over what goes through here, which has to be arrays

    found, (out, (arrays, rebuild), done) = make(transform, pure, operands.point, operands.argnums, options)
    operands.commit(done)
    varying = operands.entries([operands.point[i] for i in operands.argnums])
    result = _arranged(found, out, varying if make is hessian_of else None, operands.layout)
    return (result, rebuild(arrays)) if has_aux else result


def _arranged(found: Any, tree: Any, varying: tuple[Any, ...] | None, layout: Layout) -> Any:
    """Arrange the tuple that replaces each array of `tree`; in it do the same below `varying`."""
    treedef = jax.tree.structure(tree)
    rows = []
    for entries in treedef.flatten_up_to(found):
        entries = entries if layout.with_variables else (None, *entries)
        if varying is not None:
            entries = [
                None if sub is None else _arranged(sub, x, None, layout)
                for sub, x in zip(entries, varying, strict=True)
            ]
        rows.append(layout(entries))
    return treedef.unflatten(rows)
