"""What a transform is called and how it is called: all that checks, error texts and the reference need to know of it.

    described : Transform -> transform function -> the same function, found again by `transform_of`

Each transform has its descriptor beside it, in its own file. Nothing here, or in a layer that builds on this one, lists
transforms or decides by a name: a question about a transform is an attribute of its descriptor.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

from liftax import errors

F = TypeVar("F", bound=Callable[..., Any])

Output = Literal["any", "scalar", "like the first argument"]
Mode = Literal["", "forward", "reverse", "forward over reverse"]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A transform, as its users see it. In a text it is its name.

    Args:
        name: The function's name.
        call: How it is called: what follows the name.
        output: What the function returns.
        mode: How it differentiates: what its inputs and outputs have to be. Empty for those that do not differentiate,
            or in which either is open.
        options: Which of `argnums`, `holomorphic` and `allow_int` it takes, for remedies.
        filters: The arguments that let collections of variables in.
        splits: What its rng streams are split along, by `split_rngs`: `axis` or `steps`. Empty: `rngs` lets them in.
        to_write: The remedy where a collection can't be written inside, with `{col}` for its name; the filters if None.
        leaves_out: The remedy for an argument that is not a value to JAX, with `{name}` for the transform.
        to_create: The remedy where a variable can't be created though the filters let its collection in.
        any_output: Functions may return what is not a value to JAX.
    """

    name: str
    call: str = "(f, …)"
    output: Output = "any"
    mode: Mode = ""
    options: frozenset[str] = frozenset()
    filters: tuple[str, ...] = ("variables",)
    splits: Literal["", "axis", "steps"] = ""
    to_write: str | None = None
    to_create: str | None = None
    leaves_out: str = "Give what is not an array to the function by a closure: {name}(lambda mdl, x: fn(mdl, x, …), …)."
    any_output: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def usage(self) -> str:
        """A call, as text: `vjp(fn, module, *primals)`."""
        return self.name + self.call


_DESCRIBED: dict[Callable[..., Any], Transform] = {}


def described(transform: Transform) -> Callable[[F], F]:
    """Return a decorator that records the descriptor of a transform.

    If the transform takes a function and its module, a call with only the function is an error that says how.
    """

    def mark(function: F) -> F:
        if transform.call.startswith("(fn, module"):
            function = _with_module(function, transform)
        _DESCRIBED[function] = transform
        return function

    return mark


def _with_module(function: F, transform: Transform) -> F:
    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and callable(args[0]) and "mdl" not in kwargs:
            raise errors.TransformTargetError(
                f"{transform} was called with a function and no module. It does not return a function, as its namesake "
                f"in JAX may: the function, the module and the arguments are given in one call, nn.{transform.usage}."
            )
        return function(*args, **kwargs)

    return cast(F, checked)


def transforms() -> Mapping[Callable[..., Any], Transform]:
    """Return all described transforms that have been imported, by function."""
    return dict(_DESCRIBED)


def lifted_names() -> list[str]:
    """Return the names of the described transforms, as a user of `nn` writes them."""
    return [f"nn.{transform}" for transform in _DESCRIBED.values()]
