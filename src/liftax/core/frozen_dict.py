"""FrozenDict: an immutable mapping that can be hashed, for attributes of modules that are dicts."""

import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import jax

K = TypeVar("K")
V = TypeVar("V")


@jax.tree_util.register_pytree_with_keys_class
class FrozenDict(Mapping[K, V], Generic[K, V]):
    """An immutable mapping: a pytree, hashable if its values are. Nested mappings are frozen too.

    Example:
        >>> from liftax import nn
        >>> d = nn.FrozenDict({'a': {'b': 1}})
        >>> d['a']['b'], d.unfreeze()
        (1, {'a': {'b': 1}})
    """

    __slots__ = ("_data",)

    def __init__(self, *args: Any, **kwargs: Any):
        data = {k: FrozenDict(v) if isinstance(v, Mapping) else v for k, v in dict(*args, **kwargs).items()}
        object.__setattr__(self, "_data", data)

    def __getitem__(self, key: K) -> V:
        return self._data[key]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("A FrozenDict can't be changed. Make a new one: FrozenDict({**old, key: value}).")

    def __iter__(self) -> Iterator[K]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return self.pretty_repr()

    def __hash__(self) -> int:
        return hash(frozenset(self._data.items()))

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self._data),)

    def copy(self, add_or_replace: Mapping[Any, Any] = MappingProxyType({})) -> "FrozenDict[Any, Any]":
        """Return a new FrozenDict, with the items of `add_or_replace` added."""
        return FrozenDict({**self._data, **add_or_replace})

    def pop(self, key: K) -> "tuple[FrozenDict[K, V], V]":
        """Return a new FrozenDict without `key`, and the value that was there."""
        rest = dict(self._data)
        value = rest.pop(key)
        return FrozenDict(rest), value

    def pretty_repr(self, num_spaces: int = 4) -> str:
        """Return text with one item a line, nested ones indented by `num_spaces`."""
        return f"FrozenDict({_lines(self, ' ' * num_spaces)})"

    def unfreeze(self) -> dict[K, Any]:
        """Return a plain, mutable copy."""
        return {k: v.unfreeze() if isinstance(v, FrozenDict) else v for k, v in self._data.items()}

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Flatten as JAX flattens a dict: by sorted keys."""
        keys = tuple(sorted(self._data))  # type: ignore[type-var]
        return tuple((jax.tree_util.DictKey(k), self._data[k]) for k in keys), keys

    @classmethod
    def tree_unflatten(cls, keys: Any, values: Any) -> "FrozenDict[Any, Any]":
        """Undo `tree_flatten_with_keys`."""
        return cls(zip(keys, values, strict=True))


def _lines(tree: Mapping[Any, Any], indent: str) -> str:
    values = ((k, _lines(v, indent) if isinstance(v, Mapping) else repr(v)) for k, v in tree.items())
    text = "".join(f"{k}: {v},\n" for k, v in values)
    return f"{{\n{textwrap.indent(text, indent)}}}" if text else "{}"


def freeze(xs: Mapping[Any, Any]) -> FrozenDict[Any, Any]:
    """Return a nested mapping as a FrozenDict.

    Example:
        >>> from liftax import core
        >>> core.freeze({'a': {'b': 1}})['a']
        FrozenDict({
            b: 1,
        })
    """
    return xs if isinstance(xs, FrozenDict) else FrozenDict(xs)


def unfreeze(x: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a nested mapping, frozen or not, as a plain dict of dicts that are free to change.

    Example:
        >>> from liftax import core
        >>> core.unfreeze(core.freeze({'a': {'b': 1}}))
        {'a': {'b': 1}}
    """
    return {k: unfreeze(v) if isinstance(v, Mapping) else v for k, v in x.items()}


def copy(x: Mapping[Any, Any], add_or_replace: Mapping[Any, Any] = MappingProxyType({})) -> Any:
    """Return a copy of a FrozenDict or a dict, of the same type, with the items of `add_or_replace` added.

    Example:
        >>> from liftax import core
        >>> core.copy({'a': 1}, {'b': 2})
        {'a': 1, 'b': 2}
    """
    return x.copy(add_or_replace) if isinstance(x, FrozenDict) else {**unfreeze(x), **add_or_replace}


def pop(x: Mapping[Any, Any], key: Any) -> tuple[Any, Any]:
    """Return a copy of a FrozenDict or a dict without `key`, of the same type, and the value that was there.

    Example:
        >>> from liftax import core
        >>> core.pop({'params': 1, 'cache': 2}, 'params')
        ({'cache': 2}, 1)
    """
    if isinstance(x, FrozenDict):
        return x.pop(key)
    rest = unfreeze(x)
    return rest, rest.pop(key)


def pretty_repr(x: Any, num_spaces: int = 4) -> str:
    """Return text with one item a line for a nested mapping, and `repr(x)` for anything else.

    Example:
        >>> from liftax import core
        >>> print(core.pretty_repr({'params': {'w': 1.0}}, 2))
        {
          params: {
            w: 1.0,
          },
        }
    """
    if isinstance(x, FrozenDict):
        return x.pretty_repr(num_spaces)
    return _lines(x, " " * num_spaces) if isinstance(x, Mapping) else repr(x)
