"""Binding: how a module comes to hold variables, and how it is taken away from them again.

Unbound, a module is a description. Bound, it has a `scope`. Submodules made in `setup` or in a `@compact` method bind
themselves to child scopes; modules given as fields are bound under the name of the field. What a module holds while it
is bound is in its `__dict__` alone, so that a lifted transform can put another scope under it and take it away again.
"""

import dataclasses
import inspect
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

from liftax import errors
from liftax.core import outside
from liftax.core.calls import calls
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.module.attrs import ATOMIC, map_modules, modules_in
from liftax.module.dataclass import UNSPECIFIED
from liftax.module.pickling import reduced, restored
from liftax.typing import Path

M = TypeVar("M", bound="Binding")
_MISSING = object()


class _State:
    """What a module knows about its own making.

    Args:
        bound: its fields are bound; attributes are frozen from here on.
        in_setup: `setup` runs now.
        setup_done: `setup` has run.
        in_compact: a `@compact` method runs now.
        names: class name -> next number, for automatic names.
        children: name -> submodule, or the collection of a variable.
        made: the attributes that `setup` made.
    """

    __slots__ = ("bound", "children", "in_compact", "in_setup", "made", "names", "setup_done")

    def __init__(self) -> None:
        self.bound = self.in_setup = self.setup_done = self.in_compact = False
        self.names: dict[str, int] = {}
        self.children: dict[str, Any] = {}
        self.made: tuple[str, ...] = ()

    def export(self) -> Any:
        """Refuse a transform of Flax, which asks a module for its state by this name."""
        raise errors.ForeignModuleError(
            "A transform of flax.linen was given a module of liftax, which it can't bind. Use the transforms of "
            "liftax, `from liftax import nn`, in a module of liftax; or hand Flax the module as one of its own, by "
            "bridge.to_linen(module)."
        )

    def copy(self) -> "_State":
        new = _State.__new__(_State)
        new.bound, new.in_setup, new.setup_done = self.bound, self.in_setup, self.setup_done
        new.in_compact, new.names, new.children = self.in_compact, dict(self.names), dict(self.children)
        new.made = self.made
        return new


class _Parent:
    """The parent of a module: a Module (held weakly, so that modules form no cycles), a Scope, or None."""

    def __get__(self, module: Any, cls: type) -> Any:
        if module is None:
            return self
        ref = module.__dict__.get("_parent")
        parent = ref() if isinstance(ref, weakref.ref) else ref
        if calls.watch is not None and isinstance(parent, Binding) and parent.scope is not None:
            outside.note(parent.scope.store, around=True)
        return parent

    def __set__(self, module: Any, parent: Any) -> None:
        module.__dict__["_parent"] = weakref.ref(parent) if isinstance(parent, Binding) else parent


class _Name:
    """The name of a module. Most traces do not depend on it: who reads it says so (see `liftax.core.outside`)."""

    def __get__(self, module: Any, cls: type) -> Any:
        if module is None:
            return None  # the default of the field
        if calls.watch is not None:
            outside.note_names()
        return module.__dict__.get("name")

    def __set__(self, module: Any, name: str | None) -> None:
        module.__dict__["name"] = name


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Binding:
    """What a module is as an object: made, named, bound, set up, cloned, lifted. See `Module`."""

    scope: Any = None
    parent: Any = _Parent()
    name: Any = _Name()
    field_names: ClassVar[tuple[str, ...]] = ()
    preserve_adopted_names: ClassVar[bool] = False  # True: modules given as fields keep the names that they have
    _state: Any = None

    def __getstate__(self) -> dict[str, Any]:
        own = self.__dict__
        return own if self.scope is not None else {name: reduced(value) for name, value in own.items()}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Of `copy.deepcopy` it is a part; a pickle would hold tracers, and the state of a call.
        if self.scope is not None and sys._getframe(1).f_globals.get("__name__") != "copy":
            raise errors.InvalidScopeError(
                f"{place(self)} is bound, and a module can be pickled only without its variables, which belong to a "
                "call. Pickle the two apart, module, variables = bound.unbind(), and bind them again: "
                "module.bind(variables)."
            )
        return super().__reduce_ex__(protocol)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        fields: dict[str, Any] = getattr(type(self), "__dataclass_fields__", {})
        for name, value in state.items():
            self.__dict__[name] = restored(value, fields[name].default if name in fields else None)

    # --- making and binding ------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        own = self.__dict__
        state = own["_state"] = _State()
        parent = own.get("_parent")
        if parent is UNSPECIFIED:
            parent = calls.top.module
            own["_parent"] = weakref.ref(parent) if isinstance(parent, Binding) else parent
        elif type(parent) is weakref.ref:
            parent = parent()
        if parent is None:
            return
        if isinstance(parent, Binding):
            theirs = parent._state
            if theirs.in_setup and own["name"] is None:
                return  # bound when setup assigns it to an attribute, which names it
            if theirs.bound and not theirs.in_setup and not theirs.in_compact:
                cls = type(self).__name__
                raise errors.AssignSubModuleError(
                    f"{cls} was made in a method of {place(parent)} that is not marked @compact. Submodules are made "
                    f"in setup (self.layer = {cls}(…)) or in a @compact method; made outside of the module, they are "
                    f"passed in as fields, or stay unbound with parent=None."
                )
            if own["name"] is None:
                prefix = type(self).__name__
                number = theirs.names.get(prefix, 0)
                theirs.names[prefix] = number + 1
                own["name"] = f"{prefix}_{number}"
            if parent.scope is None:
                raise errors.UnboundModuleError(
                    f"{type(self).__name__} was made inside {type(parent).__name__}, which is not bound. Run it "
                    "through init or apply."
                )
            own["scope"] = parent.scope.push(own["name"])
            theirs.children[own["name"]] = self
        elif isinstance(parent, Scope):
            own["scope"] = parent
        else:
            raise ValueError(f"The parent of a module is None, a Module or a Scope, not a {type(parent).__name__}.")
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
        fresh: list[Binding] = []

        def adopt(suffix: str, module: "Binding") -> "Binding":
            theirs = module.__dict__
            if theirs.get("_parent") is None and module.scope is None:  # from outside: one copy for all who hold it
                store = self.scope.store
                if store.adopted is None:
                    store.adopted = weakref.WeakValueDictionary()
                copy = store.adopted.get(id(module))
                if copy is None or copy.__dict__["_template"] is not module:
                    copy = module.clone(name=theirs["name"] if self.preserve_adopted_names else None)
                    copy.__dict__["_template"] = module
                    store.adopted[id(module)] = copy
                module, theirs = copy, copy.__dict__
            if theirs["name"] is None or (theirs.get("_parent") is None and module.scope is None):
                theirs["_parent"] = weakref.ref(self)
                theirs["name"] = theirs["name"] or f"{name}{suffix}"
                fresh.append(module)
            return module

        self.__dict__[name] = map_modules(value, _is_module, adopt)
        for module in fresh:
            module.__post_init__()

    def _set_up(self) -> None:
        state = self._state
        state.in_setup = True
        try:
            if type(self).setup is not Binding.setup:
                self.setup()
        finally:
            state.in_setup = False
            state.setup_done = True
        own = self.scope
        if own is not None and (streams := own.store.waiting.pop(own.names, None)) is not None:
            made = (x.scope for x in state.children.values() if isinstance(x, Binding) and x.scope is not None)
            own.store.forked.update({scope.names: streams for scope in made if scope.store is own.store})

    def setup(self) -> None:
        """Make submodules and variables, as attributes. Called once, before the first use of the bound module."""

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__.get("_state")
        if state is None or not (state.bound or state.in_setup) or name in ("__dict__", "__class__"):
            object.__setattr__(self, name, value)
        elif not state.in_setup:
            raise errors.SetAttributeFrozenModuleError(
                f"{type(self).__name__}.{name} = … at {place(self)}: attributes of a bound module can be set in setup "
                "only. Keep values that change in a variable: self.variable(collection, name, init_fn)."
            )
        elif name in self.field_names or name in ("name", "parent"):
            raise errors.SetAttributeInModuleSetupError(
                f"{type(self).__name__}.{name} = … at {place(self)}: {name!r} is a dataclass field, and setup can't "
                "set it. Give the attribute another name."
            )
        elif type(getattr(type(self), name, None)) is property:
            object.__setattr__(self, name, value)  # its setter, or Python's error
        else:
            state.made = (*state.made, name)
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
                    f"The property {type(self).__name__}.{name} raised an AttributeError while it was computed: "
                    f"{error} {name!r} itself exists: mend what the property reads."
                ) from error
        if self.scope is not None and not state.setup_done and not state.in_setup:
            self._set_up()
            if name in own:
                return own[name]
        hint = errors.nearest(name, own)
        if self.scope is None:
            hint += " Attributes that setup makes are there only while the module is bound: inside init or apply."
        where = place(self) if self.scope is None else f"{type(self).__name__} at {self.scope.path_text}"
        raise AttributeError(f"{where[0].upper()}{where[1:]} has no attribute {name!r}.{hint}")

    def __dir__(self) -> list[str]:
        state: Any = self.__dict__.get("_state")
        if self.scope is not None and not self.scope.store.dead and not (state.setup_done or state.in_setup):
            reserved = dict(self.scope.reservations)
            try:
                self._set_up()
            except Exception:  # the first use of the module raises it again, where it says more
                state.setup_done, self.scope.reservations = False, reserved
        return sorted(name for name in object.__dir__(self) if not name.startswith("lift_") and name not in _HIDDEN)

    def clone(
        self: M, *, parent: Any = None, _deep_clone: Any = False, _reset_names: bool = False, **updates: Any
    ) -> M:
        """Return a new module with the same fields, unbound unless `parent` is given.

        Args:
            parent: a Module or a Scope to bind it to.
            **updates: fields to change.
        """
        names = [f.name for f in dataclasses.fields(self) if f.init and f.name not in ("parent", "name")]  # type: ignore[arg-type]
        fields = {name: getattr(self, name) for name in names}
        fields.update({"name": self.__dict__.get("name"), "parent": parent, **updates})
        if _deep_clone is not False:
            memo: dict[int, Any] = {} if _deep_clone is True else _deep_clone
            unnamed = {"name": None} if _reset_names else {}

            def copy(_: str, module: "Binding") -> "Binding":
                if id(module) not in memo:
                    memo[id(module)] = module.clone(_deep_clone=memo, _reset_names=_reset_names, **unnamed)
                return memo[id(module)]

            for name in self.field_names:
                fields[name] = map_modules(fields[name], _is_module, copy)
        return type(self)(**fields)

    def copy(self: M, *, parent: Any = UNSPECIFIED, name: str | None = None, **updates: Any) -> M:
        """Return a new module with the same fields that belongs to the module whose method runs now."""
        return self.clone(parent=parent, name=name, _deep_clone=True, **updates)

    # --- being lifted (see liftax.core.packing.packed) ----------------------------------------------------------------

    def lift_parts(self) -> Sequence[tuple[Path, Any]]:
        """Return what this module reaches, itself first, each with the field path that leads there.

        That is modules, and `Variable`s of modules that it does not reach.
        """
        found: dict[int, tuple[Path, Any]] = {}
        _reach(self, (), found)
        return [
            (prefix, part)
            for prefix, part in found.values()
            if not isinstance(part, Variable) or id(part.lift_owner) not in found
        ]

    @property
    def lift_sets_up(self) -> bool:
        """Whether `setup` is still to be run."""
        state = self._state
        return not state.setup_done and not state.in_setup and type(self).setup is not Binding.setup

    @property
    def lift_made_in_setup(self) -> bool:
        """Whether the module that this one lies in has a `setup`, which makes its submodules each time anew."""
        ref = self.__dict__.get("_parent")
        parent = ref() if isinstance(ref, weakref.ref) else ref
        return isinstance(parent, Binding) and type(parent).setup is not Binding.setup

    def lift_snapshot(self) -> dict[str, Any]:
        """Return the state of this module alone, as it is before `setup`, which may keep values of variables."""
        state = self._state.copy()
        snapshot = {**self.__dict__, "_state": state}
        if state.setup_done and not state.in_setup and type(self).setup is not Binding.setup:
            state.setup_done = False
            for name in state.made:
                snapshot.pop(name, None)
            state.made = ()
        return snapshot

    def lift_static(self) -> Sequence[tuple[str, Any]]:
        """Return what methods depend on besides variables: the fields, and how far this module is in its making."""
        state = self._state
        hidden = _OWN if state.in_setup or not state.made else _OWN.union(state.made)
        static: list[tuple[str, Any]] = [(name, value) for name, value in self.__dict__.items() if name not in hidden]
        if state.in_setup or state.in_compact or state.names:
            static.append(("its making", (state.in_setup, state.in_compact, state.names)))
        return static

    def lift_around(self) -> Sequence[tuple[str | None, Any, dict[str, Any]]]:
        """Return the modules that this one lies in, the nearest first: name, module, and what its `setup` made."""
        found, module = [], self.parent
        while isinstance(module, Binding):
            found.append((module.name, module, {name: module.__dict__.get(name) for name in module._state.made}))
            module = module.parent
        return found

    def lift_install(self, snapshot: dict[str, Any], scope: Scope) -> dict[str, Any]:
        """Take on `snapshot`, bound to `scope`; return what was before."""
        saved = self.__dict__
        own = {**snapshot, "_state": snapshot["_state"].copy(), "scope": scope}
        object.__setattr__(self, "__dict__", own)
        return saved

    def lift_restore(self, saved: dict[str, Any]) -> None:
        """Go back to what was before."""
        object.__setattr__(self, "__dict__", saved)

    def lift_names(self) -> dict[str, int]:
        """Return the automatic names that were given."""
        return self._state.names

    def lift_continue(self, names: Mapping[str, int]) -> None:
        """Continue automatic naming after `names`."""
        self._state.names = dict(names)


_HIDDEN = {"field_names", "preserve_adopted_names"}
_OWN = frozenset({"_state", "scope", "_parent", "_template", "name"})


def _is_module(x: Any) -> bool:
    return isinstance(x, Binding)


def _is_part(x: Any) -> bool:
    return isinstance(x, Binding | Variable)


def _reach(module: Any, prefix: Path, found: dict[int, tuple[Path, Any]]) -> None:
    if id(module) in found:
        return
    found[id(module)] = prefix, module
    if isinstance(module, Variable):
        return
    own = module.__dict__
    for name, value in own.items():
        if type(value) not in ATOMIC and name not in _OWN:
            for suffix, part in modules_in(value, _is_part):
                _reach(part, (*prefix, f"{name}{suffix}"), found)
    for name, child in own["_state"].children.items():
        if isinstance(child, Binding):
            _reach(child, (*prefix, name), found)


def place(module: "Binding") -> str:
    """Say where a module is, for error texts: `/Encoder_0 (Encoder)`."""
    if module.scope is None:
        return f"an unbound {type(module).__name__}"
    return f"{module.scope.path_text} ({type(module).__name__})"
