"""How a Jacobian or a Hessian is made: by JAX whole, by products a chunk at a time, or by those that a pattern needs.

jacobian_of : (a -> (b, aux)) -> a -> (Jacobian, aux)
hessian_of  : (a -> (b, aux)) -> a -> (Hessian, aux)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax

from liftax.ad.checks import check_scalar_output
from liftax.ad.jacobian import products
from liftax.ad.jacobian import sparsity as sparse
from liftax.ad.jacobian.products import Flat
from liftax.ad.notes import noted
from liftax.errors import ArityError
from liftax.explain.transform import Transform
from liftax.explain.values import describe

Mode = Literal["forward", "reverse"]
Format = Literal["dense", "bcoo"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to make the matrix.

    Args:
        mode: by columns or by rows; of a Hessian, the mode that differentiates the gradient. None for the mode with
            fewer products.
        chunk: how many products at a time; None for all.
        sparsity: None, "auto" or a pattern.
        format: what to return.
        holomorphic: see `jax.jacfwd`.
        allow_int: see `jax.jacrev`.
    """

    mode: Mode | None
    chunk: int | None = None
    sparsity: Any = None
    format: Format = "dense"
    holomorphic: bool = False
    allow_int: bool = False

    def check(self, transform: Transform) -> None:
        """Raise `ArityError` for what is no option of `transform`."""
        chunk = self.chunk
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ArityError(
                f"{transform} got chunk={chunk!r}, expected how many products to make at a time: 1 or more."
            )
        if self.mode not in (None, "forward", "reverse"):
            raise ArityError(f"{transform} got mode={self.mode!r}, expected 'forward' or 'reverse'.")
        if self.format not in ("dense", "bcoo"):
            raise ArityError(f"{transform} got format={self.format!r}, expected 'dense' or 'bcoo'.")
        given = self.sparsity
        if not (given is None or (isinstance(given, str) and given == "auto") or sparse.is_pattern(given)):
            got = repr(given) if isinstance(given, str) else describe(given)
            raise ArityError(
                f"{transform} got sparsity={got}, expected 'auto' or a pattern: a Boolean matrix, or one of asdex."
            )
        if self.format == "bcoo" and given is None:
            raise ArityError(f"{transform} got format='bcoo' without sparsity. Pass sparsity='auto', too.")
        if self.allow_int and not (given is chunk is None):
            raise ArityError(f"{transform} got allow_int=True beside chunk or sparsity. Leave integers out by argnums.")


def jacobian_of(
    transform: Transform,
    pure: Callable[..., Any],
    args: tuple[Any, ...],
    argnums: int | tuple[int, ...],
    options: Options,
) -> tuple[Any, Any]:
    """Return the Jacobian of `pure(*args)`, which returns `(out, aux)`, arranged as JAX does, and `aux`.

    Args:
        transform: for error texts.
        pure: the function.
        args: its arguments.
        argnums: which of them vary.
        options: how to make it.
    """
    with noted():
        if options.sparsity is not None:
            f, diff = _of_what_varies(pure, args, argnums)
            return _sparse(transform, f, diff, options, symmetric=False)
        mode = options.mode or _with_fewer_products(pure, args, argnums)
        if options.chunk is None and mode == "forward":
            return jax.jacfwd(pure, argnums, has_aux=True, holomorphic=options.holomorphic)(*args)
        if options.chunk is None:
            return jax.jacrev(
                pure, argnums, has_aux=True, holomorphic=options.holomorphic, allow_int=options.allow_int
            )(*args)
        f, diff = _of_what_varies(pure, args, argnums)
        if mode == "forward":
            out, push, aux = jax.linearize(f, diff, has_aux=True)
            return products.columns(push, Flat(diff), Flat(out), options.chunk), aux
        out, pull, aux = jax.vjp(f, diff, has_aux=True)
        return products.rows(lambda ct: pull(ct)[0], Flat(diff), Flat(out), options.chunk), aux


def hessian_of(
    transform: Transform,
    pure: Callable[..., Any],
    args: tuple[Any, ...],
    argnums: int | tuple[int, ...],
    options: Options,
) -> tuple[Any, Any]:
    """Return the Hessian of `pure(*args)`, as `jacobian_of` returns the Jacobian."""
    if options.sparsity is None:
        rows = jax.jacrev(pure, argnums, has_aux=True, holomorphic=options.holomorphic)
        return jacobian_of(transform, rows, args, argnums, options)
    f, diff = _of_what_varies(pure, args, argnums)

    def scalar(diff: Any) -> Any:
        out, aux = f(diff)
        check_scalar_output(out, transform)
        return out, aux

    with noted():
        return _sparse(transform, jax.grad(scalar, has_aux=True), diff, options, symmetric=True)


def _sparse(
    transform: Transform, f: Callable[[Any], Any], diff: Any, options: Options, *, symmetric: bool
) -> tuple[Any, Any]:
    inputs = Flat(diff)
    outputs = Flat(jax.eval_shape(lambda diff: f(diff)[0], diff))

    def flat(x: Any) -> tuple[Any, Any]:
        out, aux = f(inputs.unpack(x))
        return outputs.pack(out), aux

    x = inputs.pack(diff)
    side = None if symmetric or options.mode is None else {"forward": "fwd", "reverse": "rev"}[options.mode]
    coloring = sparse.colored(transform, options.sparsity, lambda x: flat(x)[0], x, side, symmetric)
    if options.mode == "reverse" if symmetric else coloring.mode == "rev":
        _, pull, aux = jax.vjp(flat, x, has_aux=True)
        data = sparse.entries(coloring, lambda ct: pull(ct)[0], outputs.dtype, options.chunk)
    else:
        _, push, aux = jax.linearize(flat, x, has_aux=True)
        data = sparse.entries(coloring, push, inputs.dtype, options.chunk)
    return sparse.arranged(coloring, data, inputs, outputs, options.format == "dense"), aux


def _of_what_varies(
    pure: Callable[..., Any], args: tuple[Any, ...], argnums: int | tuple[int, ...]
) -> tuple[Callable[[Any], Any], Any]:
    """Return a function of what varies, and that: a tree if `argnums` is an integer, otherwise a tuple of trees."""

    def of_one(x: Any) -> Any:
        return pure(*args[:argnums], x, *args[argnums + 1 :])  # type: ignore[operator]

    def of_several(xs: tuple[Any, ...]) -> Any:
        full = list(args)
        for i, x in zip(argnums, xs, strict=True):  # type: ignore[arg-type]
            full[i] = x
        return pure(*full)

    if isinstance(argnums, int):
        return of_one, args[argnums]
    return of_several, tuple(args[i] for i in argnums)


def _with_fewer_products(pure: Callable[..., Any], args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> Mode:
    f, diff = _of_what_varies(pure, args, argnums)
    outputs = Flat(jax.eval_shape(lambda diff: f(diff)[0], diff)).size
    return "reverse" if 0 < outputs < Flat(diff).size else "forward"
