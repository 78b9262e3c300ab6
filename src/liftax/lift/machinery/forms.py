"""The three forms of a lifted transform, over one function form.

    function  : transform(fn, **options)(mdl, *args)            fn : Module -> args -> b
    decorator : @transform over a method                        the same: a method is a function of its module
    class     : transform(Block, **options)                     a subclass of Block whose methods are transformed

What the function forms share is here too: `Call`, one call of a transformed function, with the modules among its
arguments taken out of them. Nothing here knows modules but by what they can do (`liftax.core.packing.packed.Liftable`).
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from liftax import errors
from liftax.core import filters
from liftax.core.packing.packed import Groups, Packed, unbind
from liftax.core.packing.run import Run
from liftax.core.packing.targets import is_target, no_class, other_library
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.explain.functions import arity_explained
from liftax.explain.transform import Transform
from liftax.lift.machinery.checks import check_output
from liftax.typing import Filter, PRNGKey

Target = TypeVar("Target", bound=Callable[..., Any])
Keys = Sequence[Mapping[str, PRNGKey]]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a lifted function: its target packed, its arguments free of modules. A value.

    Args:
        fn: called as `fn(mdl, *args, **kwargs)`.
        mdl: the target.
        packed: the target, and the modules among the arguments, taken apart.
        args: the arguments, without modules.
        kwargs: the same, by keyword.
        taken: the modules and scopes that were taken out, by their position among the leaves.
        treedef: the structure of the arguments, if anything was taken out.
    """

    fn: Callable[..., Any]
    mdl: Any
    packed: Packed
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    taken: Mapping[int, Any]
    treedef: Any

    @classmethod
    def of(
        cls,
        transform: Transform,
        fn: Callable[..., Any],
        mdl: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        groups: Sequence[Filter],
        rngs: Filter = True,
    ) -> "Call":
        """Take a call apart.

        Args:
            transform: for error texts.
            fn: see `Call`.
            mdl: a bound module, a scope, or a tree of these.
            args: arguments; modules and scopes in them are packed along with `mdl`.
            kwargs: the same, by keyword.
            groups: see `unbind`.
            rngs: see `unbind`.
        """
        taken: dict[int, Any] = {}
        treedef = None
        if kwargs or not all(isinstance(x, jax.Array) for x in args):
            leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=_is_taken)
            taken = {i: leaf for i, leaf in enumerate(leaves) if is_target(leaf) or isinstance(leaf, Variable)}
            if taken:
                args, kwargs = treedef.unflatten([None if i in taken else leaf for i, leaf in enumerate(leaves)])
        more = [_target_of(x) for x in taken.values() if x.scope is not None] if taken else ()
        packed = unbind((mdl, *more) if more else mdl, groups, rngs, transform)
        if more and is_target(mdl) and not isinstance(mdl, Scope):
            packed = packed.with_(frame=packed.frame._replace(module=mdl))
        return cls(fn, mdl, packed, args, kwargs, taken, treedef)

    def with_(self, **changes: Any) -> "Call":
        """Return a call whose packed target has other values in some fields."""
        return dataclasses.replace(self, packed=self.packed.with_(**changes))

    def run(
        self,
        groups: Groups,
        keys: Keys,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        fn: Callable[..., Any] | None = None,
    ) -> tuple[Any, Run]:
        """Call a function with the target bound to `groups` and `keys`; return its output and what it did."""
        with self.packed.bind(groups, keys) as inner:
            out = self._called(inner.target, args, kwargs, self.fn if fn is None else fn)
            return out, inner.collect()

    def run_on(
        self, roots: Sequence[Scope], args: tuple[Any, ...], kwargs: Mapping[str, Any], fn: Callable[..., Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Call a function with the target bound to scopes that another transform made; return its output and names."""
        with self.packed.rebind(roots) as inner:
            return self._called(inner.target, args, kwargs, fn), inner.names()

    def _called(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], fn: Callable[..., Any]) -> Any:
        fn = as_method(as_function(fn, self.mdl), self.mdl)
        if self.taken:
            target, args, kwargs = self._put_back(target, args, kwargs)
        with arity_explained(fn, (target, *args), kwargs, self.packed.transform):
            out = fn(target, *args, **kwargs)
        check_output(out, self.packed, fn)
        return out

    def _put_back(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        bound = [x for x in self.taken.values() if x.scope is not None]
        mdl, *more = target if bound else [target]
        rest = iter(more)
        leaves = jax.tree.leaves((args, kwargs), is_leaf=_is_taken)
        for i, x in self.taken.items():
            if x.scope is not None:
                own = next(rest)
                x = Variable(own, x.collection, x.name, x.unbox) if isinstance(x, Variable) else own
            leaves[i] = x
        return (mdl, *self.treedef.unflatten(leaves))

    def named(self, pure: Callable[..., Any]) -> Callable[..., Any]:
        """Give `pure` the name of the function, which JAX shows in jaxprs and profiles."""
        pure.__name__ = getattr(self.fn, "__name__", str(self.packed.transform))
        return pure


def as_function(fn: Callable[..., Any], mdl: Any) -> Callable[..., Any]:
    """Return `fn` as a function of its target: a bound method of `mdl` itself is called without it.

    While a transform runs, `mdl` is rebound, so its bound methods see what the function would see by its argument.
    """
    method = fn
    while isinstance(method, functools.partial):
        method = method.func
    if not isinstance(method, types.MethodType) or method.__self__ is not mdl:
        return fn

    @functools.wraps(fn if method is fn else method)
    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        if _fits(fn, args, kwargs) or not _fits(fn, (mdl, *args), kwargs):
            return fn(*args, **kwargs)
        return fn(mdl, *args, **kwargs)

    called.is_wrapped = True  # type: ignore[attr-defined]
    return called


def _fits(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(fn).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def is_unbound(mdl: Any) -> bool:
    """Tell whether `mdl` is a module that holds no variables, whose methods can run without any."""
    return is_target(mdl) and mdl.scope is None


def as_method(fn: Callable[..., Any], mdl: Any) -> Callable[..., Any]:
    """Return `fn` with what a method of the module `mdl` has around it, unless it has it already."""
    wrap = getattr(type(mdl), "lift_method", None)
    return fn if wrap is None or hasattr(fn, "is_wrapped") else wrap(fn)


def function_form(called: Callable[..., Any], fn: Any, transform: Transform) -> Any:
    """Return `called`, which transforms and calls `fn`, as the function or method that replaces `fn`."""
    library = other_library(fn)
    if library == "flax" or (library and isinstance(fn, type)):  # of some others the modules are plain functions
        raise no_class(fn, transform)
    if is_target(fn) or not callable(fn):
        raise errors.TransformTargetError(
            f"{transform}: got a {type(fn).__name__} to transform. Give it a Module class, a method or a function "
            f"whose first argument is the module: {transform}(fn, …)(module, *args)."
        )
    code = getattr(fn, "__code__", None)
    if code is not None and not (code.co_argcount or code.co_flags & inspect.CO_VARARGS):
        raise errors.TransformTargetError(
            f"{transform}: {fn.__name__} takes no argument, where a function is expected whose first argument is "
            f"the module. A module that is made inside belongs to no target: transform its class, {transform}(Block, …)"
            f"(0.5)(x) instead of {transform}(lambda: Block(0.5), …)()(x)."
        )
    functools.update_wrapper(called, fn)
    called.is_wrapped = True  # type: ignore[attr-defined]
    return called


def is_class(target: Any) -> bool:
    """Tell whether `target` is a class of modules, maybe with fields given by `functools.partial`."""
    while isinstance(target, functools.partial):
        target = target.func
    return isinstance(target, type) and hasattr(target, "lift_parts")


def class_form(
    transform: Callable[..., Any],
    target: Any,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    **options: Any,
) -> Any:
    """Return a subclass of `target` with transformed methods.

    Args:
        transform: the transform, called for each method as `transform(method, **options)`.
        target: a class of modules, or a `functools.partial` of one.
        methods: their names; None for `__call__`; or a mapping from name to options, used in place of `options`.
        **options: the transform's options.
    """
    if isinstance(target, functools.partial):
        more = {} if methods is None else {"methods": methods}
        return functools.partial(transform(target.func, **options, **more), *target.args, **target.keywords)
    if methods is None:
        methods = ("__call__",)
    if isinstance(methods, str) or not isinstance(methods, Sequence | Mapping):
        raise errors.TransformTargetError(
            f"{transform.__name__}: methods={methods!r} is neither a sequence of method names, such as ('__call__',), "
            "nor a mapping from method names to options."
        )
    chosen = methods if isinstance(methods, Mapping) else dict.fromkeys(methods, options)
    body: dict[str, Any] = {"__module__": target.__module__, "__doc__": target.__doc__}
    body["lift_methods"] = transform.__name__, tuple(chosen)
    for name, own in chosen.items():
        if not callable(getattr(target, name, None)):
            raise errors.TransformTargetError(
                f"{transform.__name__}: {target.__name__} has no method {name!r}."
                f"{errors.nearest(name, (n for n in dir(target) if n == '__call__' or not n.startswith('_')))}"
            )
        body[name] = transform(_plain(target, name), **own)
    return type(target)(transform.__name__.capitalize() + target.__name__, (target,), body)


def _plain(cls: type, name: str) -> Callable[..., Any]:
    """Return the method for the inside of the transform, where the module is of `cls` again: no method transformed."""
    method = getattr(cls, name)

    @functools.wraps(method)
    def plain(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        transformed = type(mdl)
        mdl.__class__ = cls
        try:
            return method(mdl, *args, **kwargs)
        finally:
            mdl.__class__ = transformed

    plain.is_wrapped = True  # type: ignore[attr-defined]
    return plain


def _is_taken(x: Any) -> bool:
    return x is None or is_target(x)


def _target_of(x: Any) -> Any:
    return x.scope if isinstance(x, Variable) else x


# --- rng streams of transforms that split them -----------------------------------------------------------------------


def split_keys(
    call: Call, split_rngs: Mapping[Filter, bool]
) -> tuple[tuple[dict[str, PRNGKey], ...], tuple[dict[str, PRNGKey], ...]]:
    """Return, for each root, the keys of streams that are split, and of those that are not; drop the others."""
    split: list[dict[str, PRNGKey]] = []
    shared: list[dict[str, PRNGKey]] = []
    for keys in call.packed.keys:
        split.append({})
        shared.append({})
        for stream, key in keys.items():
            found = next((is_split for f, is_split in split_rngs.items() if filters.in_filter(f, stream)), None)
            if found is not None:
                (split if found else shared)[-1][stream] = key
    return tuple(split), tuple(shared)


def joined(*several: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Join dicts root by root."""
    return tuple({k: v for part in parts for k, v in part.items()} for parts in zip(*several, strict=True))
