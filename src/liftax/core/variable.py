"""Variable: a handle to one variable of a module or a scope."""

from typing import Any, Generic, TypeVar

from liftax import errors
from liftax.core import meta

T = TypeVar("T")
_MISSING = object()


class Variable(Generic[T]):
    """A handle to one variable: `.value` reads and writes it.

    Args:
        scope: where the variable lives: a scope, or a module, through whichever scope it is bound to at the time.
        collection: the collection's name.
        name: the variable's name.
        unbox: read and write through boxes with metadata.

    Example:
        >>> from liftax import nn
        >>> class Counter(nn.Module):
        ...     @nn.compact
        ...     def __call__(self):
        ...         count = self.variable('state', 'count', lambda: 0)  # a Variable
        ...         count.value += 1
        ...         return count.value
        >>> Counter().apply({'state': {'count': 2}}, mutable=['state'])
        (3, {'state': {'count': 3}})
    """

    __slots__ = ("__weakref__", "_owner", "collection", "name", "unbox")

    def __init__(self, scope: Any, collection: str, name: str, unbox: bool = True):
        self._owner = scope
        self.collection = collection
        self.name = name
        self.unbox = unbox

    @property
    def scope(self) -> Any:
        """The scope that the variable lives in."""
        return self._owner.scope

    @property
    def value(self) -> T:
        """The value of the variable."""
        scope = self.scope
        value = scope.get_variable(self.collection, self.name, _MISSING)
        if value is _MISSING:
            raise scope._not_found(self.collection, self.name, errors.ScopeVariableNotFoundError)
        return meta.unbox(value) if self.unbox else value

    @value.setter
    def value(self, value: T) -> None:
        scope = self.scope
        if self.unbox:
            value = meta.replace_boxed(scope.get_variable(self.collection, self.name), value)
        scope.put_variable(self.collection, self.name, value)

    def is_mutable(self) -> bool:
        """Tell whether the variable may be written."""
        return self.scope.is_mutable_collection(self.collection)

    # --- being lifted, as the field of a module (see liftax.core.packing.packed) ---

    @property
    def lift_owner(self) -> Any:
        """The module through which it reaches its scope, and with which it is rebound; None if it holds a scope."""
        return getattr(self._owner, "module", None)

    def lift_snapshot(self) -> None:
        """Return its state: it has none."""

    def lift_install(self, snapshot: None, scope: Any) -> Any:
        """Take on `scope`; return what `lift_restore` needs."""
        saved, self._owner = self._owner, scope
        return saved

    def lift_restore(self, saved: Any) -> None:
        """Go back to what was before `lift_install`."""
        self._owner = saved

    def lift_names(self) -> dict[str, int]:
        """Return the automatic names that it has given: none."""
        return {}

    def lift_around(self) -> tuple[()]:
        """Return the modules that it lies in: it looks at none."""
        return ()

    def __repr__(self) -> str:
        return f"Variable({self.collection}/{self.name} at {self.scope.path_text})"
