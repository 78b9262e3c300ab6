"""The three forms of a lifted transform, over one function form.

    function  : transform(fn, **options)(mdl, *args)            fn : Module -> args -> b
    decorator : @transform over a method                        the same: a method is a function of its module
    class     : transform(Block, **options)                     a subclass of Block whose methods are transformed

What the function forms share is here too: `Call`, one call of a transformed function, with the modules among its
arguments taken out of them. Nothing here knows modules but by what they can do (`liftax.core.pack.Liftable`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from liftax import errors
from liftax.ad.checks import explain_arity
from liftax.core import filters, targets
from liftax.core.pack import Groups, State, is_target, unbind
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.lift.checks import check_output
from liftax.typing import Filter, PRNGKey

Target = TypeVar("Target", bound=Callable[..., Any])
Keys = Sequence[Mapping[str, PRNGKey]]
_WITHOUT_JAX = ("map_variables", "fold_rngs")  # what may return anything


class Call:
    """One call of a lifted function: its target packed, its arguments free of modules.

    Args:
        fn: called as `fn(mdl, *args, **kwargs)`.
        mdl: a bound module, a scope, or a tree of these.
        args: arguments; modules and scopes in them are packed along with `mdl`.
        kwargs: the same, by keyword.
        groups: see `unbind`.
        rngs: see `unbind`.
        name: the transform's name, for error texts.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        mdl: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        groups: Sequence[Filter],
        rngs: Filter,
        name: str,
    ):
        self.name = name
        self._fn, self._mdl = fn, mdl
        self.args, self.kwargs = args, kwargs
        self.taken: dict[int, Any] = {}
        plain = not kwargs
        for x in args:
            plain = plain and isinstance(x, jax.Array)
        if not plain:
            self._take_out(args, kwargs)
        more = [_target_of(x) for x in self.taken.values() if x.scope is not None] if self.taken else ()
        self.packed = unbind((mdl, *more) if more else mdl, groups, rngs, name)
        self._alone = not more
        if more and is_target(mdl) and not isinstance(mdl, Scope):
            self.packed.frame = self.packed.frame._replace(module=mdl)

    def _take_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves, self._treedef = jax.tree.flatten((args, kwargs), is_leaf=_is_taken)
        self.taken = {i: leaf for i, leaf in enumerate(leaves) if is_target(leaf) or isinstance(leaf, Variable)}
        if self.taken:
            leaves = [None if i in self.taken else leaf for i, leaf in enumerate(leaves)]
            self.args, self.kwargs = self._treedef.unflatten(leaves)

    @functools.cached_property
    def fn(self) -> Callable[..., Any]:
        """The function, with what a method has around it; a call that JAX need not trace does without."""
        return self.method(self._fn)

    def method(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn` with what a method of the target has around it."""
        return as_method(fn, self._mdl)

    def run(
        self,
        groups: Groups,
        keys: Keys,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        fn: Callable[..., Any] | None = None,
    ) -> tuple[Any, State]:
        """Call a function with the target bound to `groups` and `keys`; return its output and the state it wrote."""
        with self.packed.bind(groups, keys) as inner:
            out = self._called(inner.target, args, kwargs, fn or self.fn, values=self.name not in _WITHOUT_JAX)
            return out, inner.collect()

    def run_on(self, roots: Sequence[Scope], args: tuple[Any, ...], kwargs: Mapping[str, Any], fn: Any = None) -> Any:
        """Call a function with the target bound to `roots`, scopes that another transform has made of those packed."""
        with self.packed.rebind(roots) as inner:
            return self._called(inner.target, args, kwargs, fn or self.fn, values=False)

    def _called(
        self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], fn: Callable[..., Any], values: bool
    ) -> Any:
        if self.taken:
            target, args, kwargs = self._put_back(target, args, kwargs)
        try:
            out = fn(target, *args, **kwargs)
        except TypeError as error:
            explain_arity(fn, (target, *args), dict(kwargs), error, self.name)
            raise
        check_output(out, self.name, self.packed, self.fn, values=values)
        return out

    def _put_back(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        mdl, *more = [target] if self._alone else target
        bound = iter(more)
        leaves = jax.tree.leaves((args, kwargs), is_leaf=_is_taken)
        for i, x in self.taken.items():
            if x.scope is not None:
                own = next(bound)
                x = Variable(own, x.collection, x.name, x.unbox) if isinstance(x, Variable) else own
            leaves[i] = x
        return (mdl, *self._treedef.unflatten(leaves))

    def named(self, pure: Callable[..., Any]) -> Callable[..., Any]:
        """Give `pure` the name of the function, which JAX shows in jaxprs and profiles."""
        pure.__name__ = getattr(self._fn, "__name__", self.name)
        return pure


def as_method(fn: Callable[..., Any], mdl: Any) -> Callable[..., Any]:
    """Return `fn` with what a method of the module `mdl` has around it, unless it has it already."""
    wrap = getattr(type(mdl), "lift_method", None)
    return fn if wrap is None or hasattr(fn, "is_wrapped") else wrap(fn)


def function_form(called: Callable[..., Any], fn: Any, name: str) -> Any:
    """Return `called`, which transforms and calls `fn`, as what stands in the place of `fn`: a function or a method."""
    library = targets.other_library(fn)
    if library == "flax" or (library and isinstance(fn, type)):  # of some others the modules are plain functions
        raise targets.no_class(fn, name)
    if is_target(fn) or not callable(fn):
        raise errors.TransformTargetError(
            f"{name}: got a {type(fn).__name__} to transform. Give it a Module class, a method or a function whose "
            f"first argument is the module: {name}(fn, …)(module, *args)."
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
    """Return, for each root, the keys of streams that are to be split, and of those that are not; drop the others."""
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
