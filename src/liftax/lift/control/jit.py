"""Lifted compilation: a function of a module that is traced and compiled once.

    jit       : (Module -> a -> b) -> (Module -> a -> b)
    fold_rngs : the same, without compilation: the rng rule of `jit` alone

One call to `jax.jit`, to a function that lives as long as the transformed one, so that JAX finds it again. Its first
argument is static and stands for the target: two targets are the same to it when they have the same types and fields
and hold the same kind of state. Variables and keys are arguments. Where the module is does not count: ten equal layers
are traced once. For that, the module draws its keys from one key a stream, which knows the path already, and what a
trace does besides state, counting draws and naming submodules, comes out with it as a static output. What a trace looks
at outside of its target is part of neither, and makes the next call trace anew, with it (`liftax.core.outside`).

Source: `jax.jit`; `flax.linen.jit` for the signature and for how keys are drawn.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from liftax.core.filters import in_filter
from liftax.core.outside import Seen, Watch
from liftax.core.scope import Scope
from liftax.explain.transform import Transform, described
from liftax.lift.machinery.forms import Call, Target, as_method, class_form, function_form, is_class, is_unbound
from liftax.lift.machinery.recognition import fingerprint, looked_at, static
from liftax.lift.machinery.static_arguments import explained, static_arguments
from liftax.typing import Filter

JIT = Transform("jit", "(fn, …)(module, *args)")
FOLD_RNGS = Transform("fold_rngs", "(fn, …)(module, *args)", any_output=True)


@described(JIT)
def jit(
    target: Target,
    variables: Filter = True,
    rngs: Filter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: Any = None,
    backend: str | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
) -> Target:
    """Compile a function of a module.

    Outside of a module use `jax.jit`: `jax.jit(model.apply)`.

    A call is traced anew when the module has other fields, when the variables, keys or arguments have other shapes, and
    for each new function: `nn.jit(lambda mdl, x: …)` inside a method is a new one each time. `nn.jit(Block)` is the
    same class each time, if the options are equal.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        variables: The collections that are available inside.
        rngs: The rng streams that are available inside.
        static_argnums: Positions of arguments that stay Python values, counted with the module as 0.
        static_argnames: Names of arguments that stay Python values. Where the signature has both, an argument that is
            marked by its position is static by keyword too, and the reverse.
        donate_argnums: Positions of arguments whose memory may be used again.
        device: See `jax.jit`.
        backend: See `jax.jit`.
        methods: See `checkpoint`.

    Returns:
        A subclass with the same fields, whose instances are named `Jit…`; or a function with the signature of `fn`.
        Keys that are drawn inside differ from those drawn without `jit`, and are those of Linen's `jit`.

    Raises:
        StaticValueError: A field holds a tracer, or a value that can't be hashed.
        TransformTargetError, UnboundModuleError, InvalidScopeError, TransformedMethodReturnValueError: see
            `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Layer(nn.Module):
        ...     @nn.jit
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         print('tracing')
        ...         return nn.Dense(2)(x)
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         for _ in range(3):
        ...             x = Layer()(x)
        ...         return x
        >>> variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones(2))
        tracing
    """
    options = {
        "variables": variables, "rngs": rngs, "static_argnums": static_argnums, "static_argnames": static_argnames,
        "donate_argnums": donate_argnums, "device": device, "backend": backend,
    }  # fmt: skip
    made, key = _Made.of(target), static({**options, "methods": methods}, "an option", {})
    if key not in made:
        made[key] = class_form(jit, target, methods, **options) if is_class(target) else _compiled(target, **options)
    return made[key]


class _Made(dict[Any, Any]):
    """What was made of a class or a function, by options. It lies on the class or function, to live as long."""

    target: Any = None

    @classmethod
    def of(cls, target: Any) -> "_Made":
        made = getattr(target, "_liftax_jitted", None)
        if made is None or made.target is not target:  # that of a base class, or of a function that this one wraps
            made = cls()
            made.target = target
            with contextlib.suppress(AttributeError, TypeError):  # a callable that takes no attributes
                target._liftax_jitted = made
        return made

    def __reduce__(self) -> Any:  # compiled functions are not pickled along
        return _Made, ()


def _compiled(
    target: Any,
    variables: Filter,
    rngs: Filter,
    static_argnums: int | Iterable[int],
    static_argnames: str | Iterable[str],
    donate_argnums: int | Iterable[int],
    device: Any,
    backend: str | None,
) -> Any:
    where = {k: v for k, v in {"device": device, "backend": backend}.items() if v is not None}
    marked = static_arguments(target, _arguments(static_argnums), static_argnames)
    static_positions = (0, *_shifted(marked.positions))
    donated = _shifted(_arguments(donate_argnums))

    def compiled() -> Any:
        def traced(static: "_Static", groups: Any, keys: Any, around: Any, *args: Any, **kwargs: Any) -> Any:
            assert static.call is not None, "traced after the call"
            with static.watch as watch:
                watch.give(around)
                return static.call.run(groups, keys, args, kwargs)

        traced.__name__ = getattr(target, "__name__", "jit")
        return jax.jit(
            traced, static_argnums=static_positions, static_argnames=marked.names, donate_argnums=donated, **where
        )

    kept = compiled()
    outside: dict[Any, Seen] = {}  # fingerprint -> what traces looked at, where that is anything

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal kept
        if is_unbound(mdl):  # nothing to compile for: the values are the same
            return as_method(target, mdl)(mdl, *args, **kwargs)
        call = _forked(JIT, target, mdl, args, kwargs, variables, rngs).with_(compiled=True)
        packed = call.packed
        own = fingerprint(call)
        seen = outside.get(own, _NOTHING)
        looked = looked_at(call, seen) if seen is not _NOTHING and seen.kept else ()
        once = not seen.kept or looked is None
        static = _Static((own, looked))
        static.call, static.watch = call, Watch(packed.roots, seen)
        around = seen.values(packed.roots)
        try:
            run = compiled() if once else kept
            with explained(marked, target, "jit"):
                out, done = run(static, packed.groups, packed.keys, around, *call.args, **call.kwargs)
        finally:
            static.call = None  # JAX keeps the static argument; it must not keep the variables
            found, static.watch = static.watch.seen, None
        if found != seen:  # right for this call, and not to be found again: the next one gives what was read
            outside[own] = found
            kept = kept if once else compiled()
        packed.commit(done)
        return out

    return function_form(called, target, JIT)


class _Static(tuple[Any, ...]):
    """The target of one call, to `jax.jit`: its fingerprint, equal to another one if the trace would be the same."""

    call: Call | None
    watch: Any


_NOTHING = Seen()


@described(FOLD_RNGS)
def fold_rngs(target: Target, variables: Filter = True, rngs: Filter = True) -> Target:
    """Draw keys inside as `jit` does: from one key a stream, drawn where the call is, so that paths above don't count.

    Args:
        target: A Module class, or a method or a function called as `fn(mdl, *args, **kwargs)`.
        variables: The collections that are available inside.
        rngs: The rng streams that are available inside.

    Returns:
        A subclass with the same fields, whose instances are named `Fold_rngs…`; or a function with the signature of
        `fn`.

    Example:
        >>> import jax
        >>> from liftax import nn
        >>> class Key(nn.Module):
        ...     @nn.compact
        ...     def __call__(self):
        ...         draw = lambda mdl: mdl.make_rng('noise')
        ...         return draw(self), nn.fold_rngs(draw)(self)
        >>> plain, folded = Key().apply({}, rngs={'noise': jax.random.key(0)})
        >>> bool(plain == folded)
        False
    """
    if is_class(target):
        return class_form(fold_rngs, target, None, variables=variables, rngs=rngs)

    def called(mdl: Any, *args: Any, **kwargs: Any) -> Any:
        call = _forked(FOLD_RNGS, target, mdl, args, kwargs, variables, rngs)
        out, run = call.run(call.packed.groups, call.packed.keys, call.args, call.kwargs)
        call.packed.commit(run)
        return out

    return function_form(called, target, FOLD_RNGS)


def _forked(
    transform: Transform, fn: Callable[..., Any], mdl: Any, args: Any, kwargs: Any, variables: Filter, rngs: Filter
) -> Call:
    """Take the call apart, with keys that know the path of the module already."""
    scope = getattr(mdl, "scope", None)
    forked = {}
    if isinstance(scope, Scope) and scope.store.keys and not scope.store.dead:
        forked = {stream: scope.make_rng(stream) for stream in scope.store.keys if in_filter(rngs, stream)}
        if getattr(mdl, "lift_sets_up", False):
            scope.store.waiting.setdefault(scope.names, ({**scope.streams[0], **forked}, len(scope.rng_path)))
    call = Call.of(transform, fn, mdl, args, kwargs, (variables,), rngs)
    packed = call.packed
    if not any(packed.keys):
        return call
    keys = tuple(
        {stream: forked.get(stream, key) for stream, key in keys.items()} if root == scope else keys
        for root, keys in zip(packed.roots, packed.keys, strict=True)
    )
    return call.with_(keys=keys, rng_bases=tuple(len(root.rng_path) for root in packed.roots))


def _shifted(positions: Iterable[int]) -> tuple[int, ...]:
    """Return positions counted with the module as 0 as positions after the target, variables, keys, and the outside."""
    return tuple(i + 3 if i > 0 else i for i in positions)


def _arguments(argnums: int | Iterable[int]) -> tuple[int, ...]:
    return tuple(i for i in ((argnums,) if isinstance(argnums, int) else argnums) if i != 0)  # the module is static
