"""Module: a dataclass of hyperparameters that, once bound to a scope, holds variables.

`init`, `apply` and `bind` bind a copy of it (see `liftax.module.binding`); its methods declare, read and write
variables and draw keys through the scope that it is bound to.
"""

import dataclasses
import functools
import inspect
import types
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp

from liftax import core, errors
from liftax.core import outside
from liftax.core.calls import Guard, calls
from liftax.core.packing.targets import is_target
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.module.binding import Binding, place
from liftax.module.dataclass import make_dataclass
from liftax.module.methods import wrap_method, wrap_methods
from liftax.module.summary import Summarized
from liftax.typing import Filter, Path, PRNGKey

M = TypeVar("M", bound="Module")


class Module(Binding, Summarized):
    """Base class of layers and models.

    Subclasses are dataclasses: their annotated attributes are hyperparameters. Submodules and variables are made in
    `setup`, or where they are used in a method marked `@compact`. Instead of `__init__`, write `setup`.

    Args:
        parent: keyword only. The module that this one belongs to; by default the one whose method runs now.
        name: keyword only. Its name there; by default the class name and a number, or the attribute's name in `setup`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> class Affine(nn.Module):
        ...     features: int
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         w = self.param('w', nn.initializers.ones, (x.shape[-1], self.features))
        ...         return x @ w + self.param('b', nn.initializers.zeros, (self.features,))
        >>> model = Affine(2)
        >>> variables = model.init(jax.random.key(0), jnp.ones(3))
        >>> model.apply(variables, jnp.ones(3))
        Array([3., 3.], dtype=float32)
    """

    if TYPE_CHECKING:  # each subclass gets these two fields; see `liftax.module.dataclass`
        parent: Any = dataclasses.field(default=None, kw_only=True)
        name: str | None = dataclasses.field(default=None, kw_only=True)

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_dataclass(cls, kw_only)
        wrap_methods(cls)

    def bind(self: M, variables: Mapping[str, Any], *args: Any, rngs: Any = None, mutable: Filter = False) -> M:
        """Return a copy that is bound to `variables`, to be used step by step.

        Prefer `apply`, which is pure. Of threads that use one bound module, one runs at a time and the others wait.

        Args:
            variables: collection -> nested mapping of arrays.
            *args: not used; Linen takes them too, so that `bind` can be called like `apply`.
            rngs: a key for the stream `'params'`, or a mapping from stream to key.
            mutable: which collections may be written.
        """
        _check_instance(self, "bind")
        scope = core.bind(variables, rngs, mutable)
        scope.store.guard = Guard()
        return self.clone(parent=scope, _deep_clone=True)

    def unbind(self: M) -> tuple[M, dict[str, Any]]:
        """Return an unbound copy, and the variables that this module holds."""
        if self.scope is None:
            raise errors.CallUnbindOnUnboundModuleError(
                f"{type(self).__name__}.unbind() was called on a module that is not bound. It unbinds what bind, or a "
                "module around it, has bound."
            )
        return self.clone(_deep_clone=True, _reset_names=True, name=None), self.variables

    # --- pure functions ----------------------------------------------------------------------------------------------

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        rngs: Any = None,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = False,
        capture_intermediates: bool | Callable[["Module", str], bool] = False,
        **kwargs: Any,
    ) -> Any:
        """Run a method with the given variables.

        Args:
            variables: collection -> nested mapping of arrays. Never changed.
            *args: handed to the method.
            rngs: a key for the stream `'params'`, or a mapping from stream to key.
            method: the method, or its name, or any function of the module; by default `__call__`.
            mutable: which collections the method may write.
            capture_intermediates: True to sow what every `__call__` returns in `'intermediates'`, or a function
                `(module, method name) -> bool` that says which outputs to sow.
            **kwargs: handed to the method.

        Returns:
            What the method returns; with `mutable`, a pair of that and the mutable collections.

        Raises:
            ScopeParamNotFoundError, ScopeCollectionNotFound, ScopeParamShapeError: the variables do not fit.
            ModifyScopeVariableError: an immutable collection was written.
            InvalidRngError: an rng stream is missing.
        """
        run, mutable = Module._runner(self, method, mutable, capture_intermediates, "apply")
        return core.apply(run, mutable)(variables, *args, rngs=rngs, **kwargs)

    def init_with_output(
        self,
        rngs: Any,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = core.DenyList("intermediates"),
        capture_intermediates: bool | Callable[["Module", str], bool] = False,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Run a method, creating variables; return its result and the variables. Arguments are those of `init`."""
        run, mutable = Module._runner(self, method, mutable, capture_intermediates, "init")
        return core.init(run, mutable)(rngs, *args, **kwargs)

    def init(
        self,
        rngs: Any,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = core.DenyList("intermediates"),
        capture_intermediates: bool | Callable[["Module", str], bool] = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Create the variables.

        Args:
            rngs: a key for the stream `'params'`, or a mapping from stream to key.
            *args: handed to the method.
            method: the method, or its name, or any function of the module; by default `__call__`.
            mutable: which collections are created.
            capture_intermediates: see `apply`.
            **kwargs: handed to the method.

        Returns:
            The variables: `{'params': …}` and the other collections that the module has.
        """
        return Module.init_with_output(
            self, rngs, *args, method=method, mutable=mutable, capture_intermediates=capture_intermediates, **kwargs
        )[1]

    def lazy_init(
        self,
        rngs: Any,
        *args: Any,
        method: Callable[..., Any] | str | None = None,
        mutable: Filter = core.DenyList("intermediates"),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Create the variables without computing the output; arguments may be `jax.ShapeDtypeStruct`s. See `init`.

        Raises:
            LazyInitError: a variable depends on the value of an argument.
        """
        run, mutable = Module._runner(self, method, mutable, False, "lazy_init")
        return core.lazy_init(run, mutable)(rngs, *args, **kwargs)

    def _runner(self, method: Any, mutable: Filter, capture: Any, what: str) -> tuple[Callable[..., Any], Filter]:
        _check_instance(self, what)
        fn = _method(self, method, what)
        if capture is True:
            capture = _is_call
        if capture:
            mutable = core.union(mutable, "intermediates")

        def run(scope: Scope, *args: Any, **kwargs: Any) -> Any:
            frame = calls.top
            calls.top = frame._replace(capture=capture or None)
            try:
                return fn(self.clone(parent=scope, _deep_clone=True), *args, **kwargs)
            finally:
                calls.top = frame

        return run, mutable

    # --- variables and rngs ------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The names from the root module down to this one."""
        scope = self._bound("path")
        if calls.watch is not None:
            outside.note_names()
        return scope.names

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of this module and its submodules: collection -> nested dict."""
        return self._bound("variables").variables()

    def param(
        self, name: str, init_fn: Callable[..., Any], *init_args: Any, unbox: bool = True, **init_kwargs: Any
    ) -> Any:
        """Declare a parameter and return its value.

        Args:
            name: its name in the collection `'params'`.
            init_fn: called as `init_fn(key, *init_args, **init_kwargs)` if the parameter does not exist.
            *init_args: most often the shape and the dtype.
            unbox: return the plain value of a box with metadata.
            **init_kwargs: handed to `init_fn`.

        Raises:
            ScopeParamShapeError, ScopeParamNotFoundError, ScopeCollectionNotFound, NameInUseError: see `Scope.param`.
        """
        value = self._declaring(name, "param").param(name, init_fn, *init_args, unbox=unbox, **init_kwargs)
        self._state.children[name] = "params"
        return value

    def variable(
        self,
        col: str,
        name: str,
        init_fn: Callable[..., Any] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[Any]:
        """Declare a variable and return a handle whose `.value` reads and writes it.

        Args:
            col: its collection.
            name: its name.
            init_fn: called as `init_fn(*init_args, **init_kwargs)` if the variable does not exist.
            *init_args: handed to `init_fn`; no key among them unless you draw one with `make_rng`.
            unbox: read and write through boxes with metadata.
            **init_kwargs: handed to `init_fn`.

        Raises:
            ScopeVariableNotFoundError, ScopeCollectionNotFound, NameInUseError: see `Scope.variable`.
        """
        self._declaring(name, "variable").variable(col, name, init_fn, *init_args, unbox=unbox, **init_kwargs)
        self._state.children[name] = col
        return Variable(_Owner(self), col, name, unbox)

    def sow(
        self,
        col: str,
        name: str,
        value: Any,
        reduce_fn: Callable[[Any, Any], Any] = lambda xs, x: (*xs, x),
        init_fn: Callable[[], Any] = tuple,
    ) -> bool:
        """Store `value`, if the collection is mutable: by default appended to a tuple.

        Args:
            col: a collection, such as `'intermediates'`.
            name: the variable's name.
            value: what to store.
            reduce_fn: `(stored so far, value) -> stored`.
            init_fn: `() -> stored at first`.

        Returns:
            Whether it was stored.
        """
        scope = self._bound("sow")
        if not scope.is_mutable_collection(col):
            return False
        stored = scope.get_variable(col, name, _MISSING)
        if stored is _MISSING:
            scope.reserve(name, col)
            self._state.children[name] = col
            stored = init_fn()
        scope.put_variable(col, name, reduce_fn(stored, value))
        return True

    def perturb(self, name: str, value: Any, collection: str = "perturbations") -> Any:
        """Add a variable of zeros to `value`: the gradient with respect to it is that of the intermediate value.

        Args:
            name: the variable's name.
            value: an array, or a tree of arrays.
            collection: the variable's collection.

        Returns:
            `value` plus the variable; `value` itself if the collection was not given.
        """
        scope = self._bound("perturb")
        if scope.is_mutable_collection(collection) and not scope.has_variable(collection, name):
            scope.variable(collection, name, lambda: jax.tree.map(jnp.zeros_like, value))
            self._state.children[name] = collection
        if collection not in scope.store.variables:
            return value
        return jax.tree.map(jnp.add, value, Variable(scope, collection, name).value)

    def has_variable(self, col: str, name: str) -> bool:
        """Tell whether the variable exists."""
        return self._bound("has_variable").has_variable(col, name)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:
        """Return the value of a variable, in its box if it has one, or `default`."""
        return self._bound("get_variable").get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:
        """Write a variable. Prefer the handle that `variable` returns."""
        self._bound("put_variable").put_variable(col, name, value)

    def is_mutable_collection(self, col: str) -> bool:
        """Tell whether the collection `col` may be written."""
        return self._bound("is_mutable_collection").is_mutable_collection(col)

    def is_initializing(self) -> bool:
        """Tell whether this runs inside `init`."""
        return bool(self._bound("is_initializing").get_flag("initializing", False))

    def has_rng(self, name: str) -> bool:
        """Tell whether the rng stream `name` was given."""
        return self._bound("has_rng").has_rng(name)

    def make_rng(self, name: str = "params") -> PRNGKey:
        """Draw a fresh key from the rng stream `name`, or from `'params'` if it was not given.

        Raises:
            InvalidRngError: neither stream was given.
        """
        return self._bound("make_rng").make_rng(name)

    lift_method = staticmethod(wrap_method)

    def _bound(self, what: str) -> Scope:
        scope = self.scope
        if scope is None:
            raise errors.UnboundModuleError(
                f"{type(self).__name__}.{what} was used on a module that is not bound: it holds no variables. Use it "
                "inside init or apply, or bind the module: module.bind(variables)."
            )
        return scope

    def _declaring(self, name: str, what: str) -> Scope:
        scope = self._bound(what)
        state = self._state
        if not (state.in_compact or state.in_setup or not state.bound):
            raise errors.AssignSubModuleError(
                f"self.{what}({name!r}, …) at {place(self)}: parameters and variables are declared in setup or in a "
                "method marked @compact."
            )
        return scope

    def __repr__(self) -> str:
        from liftax.module.text import module_text  # on demand: tracing never needs it

        return module_text(self)


class _Owner:
    """Reach a module's scope without keeping the module alive: it may hold the handle as an attribute."""

    __slots__ = ("_module", "_scope")

    def __init__(self, module: Module):
        self._module = weakref.ref(module)
        self._scope = module.scope

    @property
    def module(self) -> Module | None:
        return self._module()

    @property
    def scope(self) -> Scope:
        module = self._module()
        return self._scope if module is None or module.scope is None else module.scope


_MISSING = object()


def _is_call(module: Module, method: str) -> bool:
    return method == "__call__"


class _OfInstance:
    """A method that, looked up on a class and called on something else than an instance, says so."""

    def __init__(self, method: Callable[..., Any]):
        self._method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, module: Any, cls: type) -> Callable[..., Any]:
        method = self._method
        if module is not None:
            return types.MethodType(method, module)

        @functools.wraps(method)
        def on_class(*args: Any, **kwargs: Any) -> Any:
            if not args or not isinstance(args[0], Module):
                name, got = method.__name__, type(args[0]).__name__ if args else "nothing"
                raise errors.InvalidInstanceModuleError(
                    f"{cls.__name__}.{name} was called on the class {cls.__name__}, with {got} in the place of an "
                    f"instance. Make one first: {cls.__name__}(…).{name}(…)."
                )
            return method(*args, **kwargs)

        return on_class


for _name in ("bind", "init", "init_with_output", "apply", "lazy_init"):
    setattr(Module, _name, _OfInstance(Module.__dict__[_name]))


def _check_instance(module: Any, what: str) -> None:
    if module._state is None:
        cls = type(module).__name__
        raise errors.IncorrectPostInitOverrideError(
            f"{cls}.__post_init__ does not call super().__post_init__(), so the {cls} can't be bound. Call it last."
        )


def _method(module: Module, method: Any, what: str) -> Callable[..., Any]:
    """Return the function of a bound module that `method` stands for."""
    cls = type(module).__name__
    if method is None:
        method = next((c.__dict__["__call__"] for c in type(module).__mro__ if "__call__" in c.__dict__), None)
        if method is None:
            raise errors.ApplyModuleInvalidMethodError(
                f"{cls}.{what}: {cls} has no __call__. Define one, or say which method to run: method='…'."
            )
    elif isinstance(method, str):
        name = method
        found = inspect.getattr_static(type(module), name, None)
        if found is None and name.startswith("__") and name not in dir(module):
            hint = errors.nearest(name, [n for n in dir(type(module)) if n == "__call__" or not n.startswith("_")])
            raise AttributeError(f"{cls}.{what}: {cls} has no method {name!r}.{hint}")
        if found is None or isinstance(found, property) or name in module.field_names:
            return lambda bound, *args, **kwargs: getattr(bound, name)(*args, **kwargs)
        method = getattr(type(module), name)
    elif isinstance(method, functools.partial) or not inspect.ismethod(method):
        pass
    elif isinstance(method.__self__, Module):
        method = method.__func__
    if not callable(method) or is_target(method) or _takes_nothing(method):
        raise errors.ApplyModuleInvalidMethodError(
            f"{cls}.{what}: method={method!r} is no function of the module. Give a method of {cls}, its name, or a "
            "function whose first argument is the module."
        )
    return method


def _takes_nothing(method: Callable[..., Any]) -> bool:
    code = getattr(method, "__code__", None)
    return code is not None and not code.co_argcount and not code.co_flags & inspect.CO_VARARGS
