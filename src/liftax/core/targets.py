"""What is said where something else stands in the place of a module: what it is, and how the transform is called.

no_target, no_choice, no_class : value, name of the transform -> error
"""

from typing import Any

from liftax import errors

_CALLS = {
    "jvp": "jvp(fn, module, primals, tangents, variable_tangents): the module comes right after the function",
    "hvp": "hvp(fn, module, primals, tangents): the module comes right after the function",
    "vhp": "vhp(fn, module, primals, tangents): the module comes right after the function",
    "fixed_point": "fixed_point(fn, module, x0, *args): the module comes right after the function",
    "root": "root(fn, module, x0, *args): the module comes right after the function",
    "cond": "cond(pred, true_fun, false_fun, module, *operands): the module comes right after the functions",
    "switch": "switch(index, branches, module, *operands): the module comes right after the functions",
    "while_loop": "while_loop(cond_fn, body_fn, module, init): the module comes right after the functions",
    "scan": "scan(fn, …)(module, carry, *xs): the module comes first",
    "remat_scan": "remat_scan(fn, …)(module, carry): the module comes first",
    "custom_vjp": "custom_vjp(fn, forward_fn, backward_fn)(module, *args): the module comes first",
    "custom_jvp": "custom_jvp(fn, jvp_fn)(module, *args): the module comes first",
}
_IN_TWO_STEPS = (
    "vmap", "checkpoint", "jit", "fold_rngs", "shard_map", "map_variables", "custom_gradient", "add_metadata_axis",
)  # fmt: skip


def call_of(name: str) -> str:
    """Return how the transform `name` is called, and where the module stands in it."""
    if name in _IN_TWO_STEPS:
        return f"{name}(fn, …)(module, *args): the module comes first"
    return _CALLS.get(name, f"{name}(fn, module, *args): the module comes right after the function")


def no_target(x: Any, name: str) -> errors.TransformTargetError:
    """Return what to raise where `x` stands in the place of the module."""
    got, remedy = type(x).__name__, f"The call is {call_of(name)}."
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        got = f"{x.dtype}[{','.join(map(str, x.shape))}]"
    if isinstance(x, type):
        got = f"the class {x.__name__}"
        if hasattr(x, "lift_parts"):
            remedy = f"Give it a module of the class, {x.__name__}(…), that is bound. {remedy}"
    library = other_library(x)
    if library:
        got, remedy = f"{_full_name(x)}, which is of {library},", f"{_ANOTHER} {remedy}"
    return errors.TransformTargetError(
        f"{name}: got {got} where a bound Module, a Scope, or a tree of these is expected. {remedy}"
    )


def no_choice(x: Any, name: str) -> errors.TransformTargetError:
    """Return what to raise where the module stands in the place of what chooses a branch."""
    return errors.TransformTargetError(
        f"{name}: got the module {type(x).__name__} where {'a Boolean' if name == 'cond' else 'an integer'} is "
        f"expected. The call is {call_of(name)}."
    )


def no_class(x: Any, name: str) -> errors.TransformTargetError:
    """Return what to raise where a module or a class of another library is to be transformed."""
    return errors.TransformTargetError(
        f"{name}: got {_full_name(x)} to transform, which is of {other_library(x)}. {_ANOTHER}"
    )


_ANOTHER = "liftax transforms its own modules alone: import the layers and the class Module by `from liftax import nn`."


def other_library(x: Any) -> str | None:
    """Return the library of a module, or a class of modules, that is none of liftax; of anything else, None."""
    cls = x if isinstance(x, type) else type(x)
    if hasattr(cls, "lift_parts"):
        return None
    found = (base.__module__.partition(".")[0] for base in cls.__mro__ if base.__name__ == "Module")
    return next(found, None)


def _full_name(x: Any) -> str:
    cls = x if isinstance(x, type) else type(x)
    return f"{'the class' if cls is x else 'a module'} {cls.__module__}.{cls.__qualname__}"
