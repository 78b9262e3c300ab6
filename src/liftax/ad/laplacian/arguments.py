"""What `laplacian` and `divergence` are called with: checked, and made directions and a function of one vector."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from liftax.ad.checks import check_float_primals, check_jacobian_types
from liftax.errors import ArityError, InvalidRngError
from liftax.explain.functions import demand_callable
from liftax.explain.transform import Transform
from liftax.explain.values import describe

LAPLACIAN = Transform("laplacian", "(f, x)", mode="forward")
DIVERGENCE = Transform("divergence", "(f, x)", mode="forward")


def check_samples(samples: Any, transform: Transform) -> None:
    """Raise `ArityError` unless `samples` is None or a number of directions."""
    if samples is not None and (isinstance(samples, bool) or not hasattr(samples, "__index__") or samples < 1):
        raise ArityError(f"{transform} got samples={samples!r}, expected a number of directions, from 1 on.")


def check_sparsity(sparsity: Any, transform: Transform) -> None:
    """Raise `ArityError` unless `sparsity` is "auto", True or False."""
    if not isinstance(sparsity, bool) and sparsity != "auto":
        raise ArityError(f'{transform} got sparsity={sparsity!r}, expected "auto", True or False.')


def flat_problem(
    transform: Transform, fun: Callable[..., Any], primals: Sequence[Any], key: Any, samples: int | None
) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Return the first argument as one vector, directions as rows (None for all unit vectors), and `fun` of it."""
    demand_callable(fun, transform)
    if not primals:
        raise ArityError(f"{transform} is taken in the first argument, and got none: write {transform}(f, x).")
    if (key is None) != (samples is None):
        raise ArityError(f"{transform}: an estimate takes both key and samples; without both the result is exact.")
    check_samples(samples, transform)
    check_float_primals(primals[:1], ["argument 0"], transform)
    check_jacobian_types((), primals[0], transform)
    x = primals[0]
    flat, unravel = (x, lambda x: x) if isinstance(x, jax.Array) and x.ndim == 1 else ravel_pytree(x)
    directions = None
    if samples is not None:
        try:
            signs = jax.random.rademacher(key, (samples, flat.size), flat.dtype)
        except (TypeError, ValueError):
            raise InvalidRngError(
                f"{transform} got key={describe(key)}, expected an rng key: jax.random.key(seed)."
            ) from None
        directions = signs / np.sqrt(samples).astype(flat.dtype)
    return flat, directions, lambda flat: fun(unravel(flat), *primals[1:])
