"""Module: a dataclass of hyperparameters that, once bound to a scope, holds variables.

Unbound, a module is a description. `init`, `apply` and `bind` bind a copy of it to a scope; submodules made in
`setup` or in a `@compact` method bind themselves to child scopes. What a module holds while it is bound is in its
`__dict__` alone, so that a lifted transform can put another scope under it and take it away again.
"""

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from liftax import core, errors
from liftax.core.calls import calls
from liftax.core.pack import is_target
from liftax.core.scope import Scope, Variable
from liftax.module.attrs import ATOMIC, map_modules, modules_in
from liftax.module.dataclass import UNSPECIFIED, make_dataclass
from liftax.module.methods import wrap_methods
from liftax.typing import Filter, Path, PRNGKey

M = TypeVar("M", bound="Module")


class _State:
    """What a module knows about its own making.

    Args:
        bound: its fields are bound; attributes are frozen from here on.
        in_setup: `setup` runs now.
        setup_done: `setup` has run.
        in_compact: a `@compact` method runs now.
        names: class name -> next number, for automatic names.
        children: name -> submodule, or the collection of a variable.
    """

    __slots__ = ("bound", "children", "in_compact", "in_setup", "names", "setup_done")

    def __init__(self) -> None:
        self.bound = self.in_setup = self.setup_done = self.in_compact = False
        self.names: dict[str, int] = {}
        self.children: dict[str, Any] = {}

    def copy(self) -> "_State":
        new = _State.__new__(_State)
        new.bound, new.in_setup, new.setup_done = self.bound, self.in_setup, self.setup_done
        new.in_compact, new.names, new.children = self.in_compact, dict(self.names), dict(self.children)
        return new


class _Parent:
    """The parent of a module: a Module (held weakly, so that modules form no cycles), a Scope, or None."""

    def __get__(self, module: Any, cls: type) -> Any:
        if module is None:
            return self
        ref = module.__dict__.get("_parent")
        return ref() if isinstance(ref, weakref.ref) else ref

    def __set__(self, module: Any, parent: Any) -> None:
        module.__dict__["_parent"] = weakref.ref(parent) if isinstance(parent, Module) else parent


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Module:
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

    scope: Any = None
    parent: Any = _Parent()
    name: str | None = None
    field_names: ClassVar[tuple[str, ...]] = ()
    _state: Any = None

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        make_dataclass(cls, kw_only)
        wrap_methods(cls)

    # --- making and binding ------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        own = self.__dict__
        state = own["_state"] = _State()
        parent = self.parent
        if parent is UNSPECIFIED:
            parent = self.parent = calls.top.module
        if parent is None:
            return
        if isinstance(parent, Module):
            theirs = parent._state
            if theirs.in_setup and self.name is None:
                return  # bound when setup assigns it to an attribute, which names it
            if theirs.bound and not theirs.in_setup and not theirs.in_compact:
                cls = type(self).__name__
                raise errors.AssignSubModuleError(
                    f"{cls} was made in a method of {_place(parent)} that is not marked @compact. Submodules are made "
                    f"in setup (self.layer = {cls}(…)) or in a @compact method; made outside of the module, they are "
                    f"passed in as fields, or stay unbound with parent=None."
                )
            if self.name is None:
                prefix = type(self).__name__
                number = theirs.names.get(prefix, 0)
                theirs.names[prefix] = number + 1
                own["name"] = f"{prefix}_{number}"
            if parent.scope is None:
                raise errors.UnboundModuleError(
                    f"{type(self).__name__} was made inside {type(parent).__name__}, which is not bound. Run it "
                    "through init or apply."
                )
            own["scope"] = parent.scope.push(self.name)
            theirs.children[own["name"]] = self
        elif isinstance(parent, Scope):
            own["scope"] = parent
        else:
            raise TypeError(f"The parent of a module is None, a Module or a Scope, not a {type(parent).__name__}.")
        self._adopt_fields()
        state.bound = True

    def _adopt_fields(self) -> None:
        own = self.__dict__
        for name in self.field_names:
            value = own.get(name, _MISSING)
            if value is not _MISSING and type(value) not in ATOMIC:
                self._adopt(name, value)

    def _adopt(self, name: str, value: Any) -> None:
        """Set an attribute; bind the unbound modules in it as submodules named after it."""
        fresh: list[Module] = []

        def adopt(suffix: str, module: Module) -> Module:
            if module.parent is None and module.scope is None:  # from outside: bind a copy, one for all who hold it
                store = self.scope.store
                if store.adopted is None:
                    store.adopted = weakref.WeakValueDictionary()
                copy = store.adopted.get(id(module))
                if copy is None or copy.__dict__["_template"] is not module:
                    copy = module.clone(name=None)
                    copy.__dict__["_template"] = module
                    store.adopted[id(module)] = copy
                module = copy
            if module.name is None:
                module.parent = self
                module.__dict__["name"] = f"{name}{suffix}"
                fresh.append(module)
            return module

        self.__dict__[name] = map_modules(value, _is_module, adopt)
        for module in fresh:
            module.__post_init__()

    def _set_up(self) -> None:
        state = self._state
        state.in_setup = True
        try:
            if type(self).setup is not Module.setup:
                self.setup()
        finally:
            state.in_setup = False
            state.setup_done = True

    def setup(self) -> None:
        """Make submodules and variables, as attributes. Called once, before the first use of the bound module."""

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__.get("_state")
        if state is None or not (state.bound or state.in_setup) or name in ("parent", "__dict__", "__class__"):
            object.__setattr__(self, name, value)
        elif not state.in_setup:
            raise errors.SetAttributeFrozenModuleError(
                f"{type(self).__name__}.{name} = … at {_place(self)}: attributes of a bound module can be set in setup "
                "only. Keep values that change in a variable: self.variable(collection, name, init_fn)."
            )
        elif name in self.field_names:
            raise errors.SetAttributeInModuleSetupError(
                f"{type(self).__name__}.{name} = … at {_place(self)}: {name!r} is a dataclass field, and setup can't "
                "set it. Give the attribute another name."
            )
        else:
            self._adopt(name, value)

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        state = own.get("_state")
        if state is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        if inspect.getattr_static(type(self), name, None) is not None:
            try:
                return object.__getattribute__(self, name)
            except AttributeError as error:
                raise errors.DescriptorAttributeError(
                    f"The property {type(self).__name__}.{name} raised an AttributeError: {error}"
                ) from error
        if self.scope is not None and not state.setup_done and not state.in_setup:
            self._set_up()
            if name in own:
                return own[name]
        hint = errors.nearest(name, own)
        if self.scope is None:
            hint += " Attributes that setup makes are there only while the module is bound: inside init or apply."
        raise AttributeError(f"{type(self).__name__} at {_place(self)} has no attribute {name!r}.{hint}")

    def clone(self: M, *, parent: Any = None, _deep_clone: Any = False, _reset_names: bool = False, **updates: Any) -> M:
        """Return a new module with the same fields, unbound unless `parent` is given.

        Args:
            parent: a Module or a Scope to bind it to.
            **updates: fields to change.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]
        fields.update(parent=parent, **updates)
        if _deep_clone is not False:
            memo: dict[int, Any] = {} if _deep_clone is True else _deep_clone
            names = {"name": None} if _reset_names else {}

            def copy(_: str, module: Module) -> Module:
                if id(module) not in memo:
                    memo[id(module)] = module.clone(_deep_clone=memo, _reset_names=_reset_names, **names)
                return memo[id(module)]

            for name in self.field_names:
                fields[name] = map_modules(fields[name], _is_module, copy)
        return type(self)(**fields)

    def copy(self: M, *, parent: Any = UNSPECIFIED, name: str | None = None, **updates: Any) -> M:
        """Return a new module with the same fields that belongs to the module whose method runs now."""
        return self.clone(parent=parent, name=name, _deep_clone=True, **updates)

    def bind(self: M, variables: Mapping[str, Any], *, rngs: Any = None, mutable: Filter = False) -> M:
        """Return a copy that is bound to `variables`, to be used step by step.

        Prefer `apply`, which is pure.

        Args:
            variables: collection -> nested mapping of arrays.
            rngs: a key for the stream `'params'`, or a mapping from stream to key.
            mutable: which collections may be written.
        """
        _check_instance(self, "bind")
        return self.clone(parent=core.bind(variables, rngs, mutable), _deep_clone=True)

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
        run, mutable = self._runner(method, mutable, capture_intermediates, "apply")
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
        run, mutable = self._runner(method, mutable, capture_intermediates, "init")
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
        return self.init_with_output(
            rngs, *args, method=method, mutable=mutable, capture_intermediates=capture_intermediates, **kwargs
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
        run, mutable = self._runner(method, mutable, False, "lazy_init")
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
        return self._bound("path").path

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
        """Add a variable of zeros to `value`, so that the gradient with respect to it is that of the intermediate value.

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
                f"self.{what}({name!r}, …) at {_place(self)}: parameters and variables are declared in setup or in a "
                "method marked @compact."
            )
        return scope

    # --- being lifted (see liftax.core.pack) -------------------------------------------------------------------------

    def lift_parts(self) -> Sequence[tuple[Path, "Module"]]:
        """Return this module and every module that it reaches, each with the field path that leads there."""
        return list(_reach(self, (), set()))

    def lift_snapshot(self) -> dict[str, Any]:
        """Return the state of this module alone."""
        return {**self.__dict__, "_state": self._state.copy()}

    def lift_install(self, snapshot: dict[str, Any], scope: Scope) -> dict[str, Any]:
        """Take on `snapshot`, bound to `scope`; return what was before."""
        saved = self.__dict__
        self.__dict__ = {**snapshot, "_state": snapshot["_state"].copy(), "scope": scope}
        return saved

    def lift_restore(self, saved: dict[str, Any]) -> dict[str, int] | None:
        """Go back to what was before; return the automatic names that were given since."""
        names = self._state.names
        self.__dict__ = saved
        return names or None

    def lift_continue(self, names: dict[str, int]) -> None:
        """Continue automatic naming after `names`."""
        self._state.names = dict(names)

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
    def scope(self) -> Scope:
        module = self._module()
        return self._scope if module is None or module.scope is None else module.scope


_MISSING = object()
_OWN = frozenset({"_state", "scope", "_parent", "_template", "name"})


def _is_module(x: Any) -> bool:
    return isinstance(x, Module)


def _is_call(module: Module, method: str) -> bool:
    return method == "__call__"


def _reach(module: Module, prefix: Path, seen: set[int]) -> Iterator[tuple[Path, Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield prefix, module
    own = module.__dict__
    for name, value in own.items():
        if type(value) not in ATOMIC and name not in _OWN:
            for suffix, part in modules_in(value, _is_module):
                yield from _reach(part, (*prefix, f"{name}{suffix}"), seen)
    for name, child in own["_state"].children.items():
        if isinstance(child, Module):
            yield from _reach(child, (*prefix, name), seen)


def _place(module: Module) -> str:
    if module.scope is None:
        return f"an unbound {type(module).__name__}"
    return f"{module.scope.path_text} ({type(module).__name__})"


def _check_instance(module: Any, what: str) -> None:
    if not isinstance(module, Module):
        raise errors.InvalidInstanceModuleError(
            f"{what} was called on a class or on something that is no module: {module!r}. Make an instance first: "
            f"Model(…).{what}(…)."
        )
    if module._state is None:
        cls = type(module).__name__
        raise errors.IncorrectPostInitOverrideError(
            f"{cls}.__post_init__ does not call super().__post_init__(), so the {cls} can't be bound. Call it last."
        )


def _method(module: Module, method: Any, what: str) -> Callable[..., Any]:
    """Return the function of a bound module that `method` stands for."""
    cls = type(module).__name__
    if method is None:
        method = getattr(type(module), "__call__", None)  # noqa: B004
        if method is None:
            raise errors.ApplyModuleInvalidMethodError(
                f"{cls}.{what}: {cls} has no __call__. Define one, or say which method to run: method='…'."
            )
    elif isinstance(method, str):
        name = method
        found = inspect.getattr_static(type(module), name, None)
        if found is None or isinstance(found, property) or name in module.field_names:
            return lambda bound, *args, **kwargs: getattr(bound, name)(*args, **kwargs)
        method = getattr(type(module), name)
    elif isinstance(method, functools.partial) or not inspect.ismethod(method):
        pass
    elif isinstance(method.__self__, Module):
        method = method.__func__
    if not callable(method) or is_target(method):
        raise errors.ApplyModuleInvalidMethodError(
            f"{cls}.{what}: method={method!r} is no function of the module. Give a method of {cls}, its name, or a "
            "function whose first argument is the module."
        )
    return method
