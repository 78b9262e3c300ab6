"""How a subclass of Module becomes a dataclass with the fields `parent` and `name` last, by keyword only."""

import dataclasses
import inspect
from typing import Any

from liftax import errors


class _Unspecified:
    """The default of `parent`: the module whose method runs now."""

    def __repr__(self) -> str:
        return "UNSPECIFIED"

    def __reduce__(self) -> str:
        return "UNSPECIFIED"

    def __copy__(self) -> "_Unspecified":
        return self

    def __deepcopy__(self, memo: Any) -> "_Unspecified":
        return self


UNSPECIFIED = _Unspecified()

_NAME_TYPES = (str, str | None, "str", "Optional[str]", "str | None", "Union[str, None]")


def make_dataclass(cls: Any, kw_only: bool) -> None:
    """Make `cls` a dataclass in place."""
    annotations = dict(inspect.get_annotations(cls))
    if annotations.get("name", str) not in _NAME_TYPES or annotations.get("parent", Any) is not Any:
        raise errors.ReservedModuleAttributeError(
            f"{cls.__name__} annotates 'parent' or 'name' as a field of its own. Every module has these two: the "
            "module that it belongs to, and its name there. Choose other names."
        )
    for name in annotations:
        default = cls.__dict__.get(name)
        if isinstance(default, dataclasses.Field) and not default.init:  # set in setup: not there yet when compared
            default.compare = default.hash = default.repr = False
    annotations.update(parent=Any, name=str | None)
    cls.__annotations__ = annotations
    cls.parent = dataclasses.field(default=UNSPECIFIED, repr=False, compare=False, kw_only=True)
    cls.name = dataclasses.field(default=None, kw_only=True)
    own_hash = "__hash__" in cls.__dict__
    dataclasses.dataclass(repr=False, unsafe_hash=not own_hash, kw_only=kw_only)(cls)
    fields = cls.__dataclass_fields__
    for name in ("parent", "name"):  # after the fields of a subclass, as in Linen
        fields[name] = fields.pop(name)
    del cls.parent, cls.name  # leave the descriptors of the base class in charge
    if not own_hash:
        cls.__hash__ = _unbound_only(cls.__hash__)
    cls.field_names = tuple(f.name for f in dataclasses.fields(cls) if f.init and f.name not in ("parent", "name"))


def _unbound_only(hash_: Any) -> Any:
    def __hash__(self: Any) -> int:
        if self.scope is not None:
            raise TypeError(
                f"A bound module can't be hashed: it holds variables. Hash the unbound {type(self).__name__}, or use "
                "id(module). Where a transform of JAX was to run it, use the lifted one, with the module as target: "
                "nn.jit(lambda mdl, x: mdl(x))(module, x) in place of jax.jit(module)(x)."
            )
        try:
            return hash_(self)
        except TypeError as error:
            raise TypeError(
                f"{type(self).__name__} can't be hashed, as one of its fields can't: {error}. Where a module is hashed "
                "(nn.jit, static arguments, keys of dicts), its fields hold tuples rather than lists, nn.FrozenDict "
                "rather than dict, and no arrays."
            ) from error

    return __hash__
