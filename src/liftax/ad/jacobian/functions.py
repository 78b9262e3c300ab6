"""`jacobian`, `jacfwd`, `jacrev` and `hessian`: JAX's, with `chunk`, `sparsity` and `mode`.

Without these options each is one call to JAX.

Source: `jax.jacfwd`, `jax.jacrev`, `jax.hessian`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from liftax.ad.argnums import indices, positions
from liftax.ad.checks import check_float_primals, check_jacobian_types
from liftax.ad.jacobian.matrix import Format, Mode, Options, hessian_of, jacobian_of
from liftax.explain.functions import arity_explained, demand_callable, demand_pair
from liftax.explain.transform import Transform

JACREV = Transform("jacrev", "(f)(x)", mode="reverse", options=frozenset({"argnums", "holomorphic", "allow_int"}))
JACFWD = Transform("jacfwd", "(f)(x)", mode="forward", options=frozenset({"argnums", "holomorphic"}))
HESSIAN = Transform("hessian", "(f)(x)", mode="forward over reverse", options=frozenset({"argnums", "holomorphic"}))
JACOBIAN = Transform("jacobian", "(f)(x)", mode="forward over reverse", options=frozenset({"argnums", "holomorphic"}))


def jacobian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    mode: Mode | None = None,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of `fun`, in whichever mode takes fewer products.

    For one row use `grad`, for one product `jvp` or `vjp`, for functions of a module `nn.jacobian`.

    Args:
        fun: The function. Its output is a tree of floating-point arrays.
        argnums: Which positional arguments to differentiate with respect to; negative ones count from the last.
        has_aux: `fun` returns a pair `(output, aux)`, and `aux`, a tree of arrays, is not differentiated.
        holomorphic: `fun` is promised to be holomorphic; inputs and output are complex.
        mode: "forward" for a product for each number that varies, "reverse" for one for each number in the output;
            None for whichever takes fewer.
        chunk: How many products to make at a time. None makes all at once, with as many times the memory that `fun`
            takes; the result takes its memory either way.
        sparsity: "auto" reads from the program which entries can differ from zero, whatever the values, and makes fewer
            products: as many as are needed to tell the columns apart. It happens once a trace, so compile the function
            with `jax.jit`. Or a pattern that is known: a Boolean matrix of shape (numbers in the output, numbers that
            vary), an `asdex.SparsityPattern` or an `asdex.ColoredPattern`; entries outside of it are taken for zero.
            Needs asdex: `pip install liftax[sparse]`.
        format: With `sparsity`, "dense" for arrays, as without it, or "bcoo" for `jax.experimental.sparse.BCOO`s of the
            same shapes, which hold the entries of the pattern.

    Returns:
        A function of the arguments of `fun` that returns the Jacobian, or `(Jacobian, aux)` if `has_aux`: a tree like
        the output, each array of which is replaced by a tree like the argument (a tuple of these if `argnums` is a
        sequence). In it an array of shape `t` is replaced by one of shape `s + t`, `s` being that of the output's.

    Raises:
        ArityError: An option or `argnums` does not fit; `fun` can't be called with the arguments.
        AuxError: With `has_aux`, `fun` returned anything but a pair.
        NonDifferentiableOutputError, NonDifferentiablePrimalError: An output or an argument has no derivative.
        MissingPackageError: `sparsity` is given, and asdex is not installed.
        SparsityError: The pattern does not fit, or can't be told.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> heat = lambda u: jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)  # three entries in each row
        >>> matrix = jax.jit(lx.jacobian(heat, sparsity="auto", format="bcoo"))(jnp.arange(9.0))
        >>> print(matrix.nse, matrix.todense()[1])
        27 [ 1. -2.  1.  0.  0.  0.  0.  0.  0.]
    """
    options = Options(mode, chunk, sparsity, format, holomorphic)
    return _function(JACOBIAN, jacobian_of, fun, argnums, has_aux, options)


def jacfwd(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of `fun` column by column: `jacobian` with `mode="forward"`.

    For more inputs than outputs use `jacrev`.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> print(lx.jacfwd(lambda t: jnp.stack([t, t**2]), chunk=1)(3.0))
        [1. 6.]
    """
    options = Options("forward", chunk, sparsity, format, holomorphic)
    return _function(JACFWD, jacobian_of, fun, argnums, has_aux, options)


def jacrev(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of `fun` row by row: `jacobian` with `mode="reverse"`.

    For fewer inputs than outputs use `jacfwd`. `allow_int` accepts integers, with respect to
    which derivatives are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> import liftax as lx
        >>> print(lx.jacrev(lambda x: jnp.stack([x[0] * x[1], x[1]]))(jnp.array([2.0, 3.0])))
        [[3. 2.]
         [0. 1.]]
    """
    options = Options("reverse", chunk, sparsity, format, holomorphic, allow_int)
    return _function(JACREV, jacobian_of, fun, argnums, has_aux, options)


def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    mode: Mode = "forward",
    chunk: int | None = None,
    sparsity: Any = None,
    format: Format = "dense",
) -> Callable[..., Any]:
    """Return a function that computes the Hessian of `fun`: the Jacobian of its gradient.

    Its product with a vector costs far less: `hvp`; its trace: `laplacian`.

    Args:
        fun: The function. With `sparsity`, its output is a real scalar.
        argnums: See `jacobian`, also for `has_aux` and `holomorphic`.
        has_aux: `fun` returns a pair.
        holomorphic: `fun` is promised to be holomorphic.
        mode: How to differentiate the gradient. "forward" takes less time and memory; "reverse" needs no forward-mode
            rule, which a `custom_vjp` in `fun` lacks.
        chunk: How many products of the Hessian to make at a time; see `jacobian`.
        sparsity: See `jacobian`. Being symmetric, a Hessian takes fewer products than another matrix.
        format: See `jacobian`.

    Returns:
        A function of the arguments of `fun` that returns the Hessian, or `(Hessian, aux)` if `has_aux`: the Jacobian,
        each array of which is replaced by a tree like the argument again.

    Raises:
        ArityError, AuxError, MissingPackageError, SparsityError: see `jacobian`.
        NonDifferentiableOutputError, NonDifferentiablePrimalError: see `jacobian`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import liftax as lx
        >>> energy = lambda x: jnp.sum((x[1:] - x[:-1]) ** 4)
        >>> print(jax.jit(lx.hessian(energy, sparsity="auto"))(jnp.array([0.0, 1.0, 3.0])))
        [[ 12. -12.   0.]
         [-12.  60. -48.]
         [  0. -48.  48.]]
    """
    options = Options(mode, chunk, sparsity, format, holomorphic)
    return _function(HESSIAN, hessian_of, fun, argnums, has_aux, options)


def _function(
    transform: Transform, make: Callable[..., Any], fun: Any, argnums: Any, has_aux: bool, options: Options
) -> Callable[..., Any]:
    demand_callable(fun, transform)
    options.check(transform)
    wanted = indices(argnums, transform, f" lx.{transform} returns a function of the arguments: lx.{transform}(f)(x).")

    def matrix_fn(*args: Any, **kwargs: Any) -> Any:
        where = positions(wanted, len(args), transform)
        names = [f"argument {i}" for i in where]
        diff = tuple(args[i] for i in where)
        check_float_primals(diff, names, transform, holomorphic=options.holomorphic, allow_int=options.allow_int)

        def pure(*args: Any) -> tuple[Any, Any]:
            with arity_explained(fun, args, kwargs, transform):
                out = fun(*args, **kwargs)
            out, aux = demand_pair(out, transform) if has_aux else (out, None)
            if not options.holomorphic:
                check_jacobian_types(out, tuple(args[i] for i in where) if not options.allow_int else (), transform)
            return out, aux

        functools.update_wrapper(pure, fun, updated=())
        found, aux = make(transform, pure, args, tuple(where) if isinstance(wanted, tuple) else where[0], options)
        return (found, aux) if has_aux else found

    return functools.update_wrapper(matrix_fn, fun, updated=())
