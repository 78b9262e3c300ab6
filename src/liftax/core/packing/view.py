"""View: trees of variables shaped like a target of several scopes, which may overlap.

    assemble    : one {collection: tree} for each packed root -> a tree shaped like the target
    disassemble : the other way

A transform packs everything once (see `liftax.core.packing.packed`), while its user sees variables where the modules
are: a scope that lies below another one, or that is reached twice, shows in each place.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from liftax import errors
from liftax.core.scope import copied
from liftax.typing import Path


class View(NamedTuple):
    """Where each packed root shows in a tree shaped like the target. Static and hashable.

    Args:
        treedef: the target's structure, with a leaf for each scope or module.
        slots: for each leaf: (prefix in the leaf's dict, index of the root, path below the root, owns it).
    """

    treedef: Any
    slots: tuple[tuple[tuple[Path, int, Path, bool], ...], ...]

    def assemble(self, roots: Sequence[Mapping[str, Any]]) -> Any:
        """Arrange one `{collection: tree}` for each root like the target."""
        return self.treedef.unflatten([self._leaf(slots, roots) for slots in self.slots])

    def _leaf(self, slots: tuple[tuple[Path, int, Path, bool], ...], roots: Sequence[Mapping[str, Any]]) -> Any:
        if len(slots) == 1 and not slots[0][0] and not slots[0][2]:
            return roots[slots[0][1]]
        leaf: dict[str, Any] = {}
        for prefix, index, below, _ in slots:
            for col, tree in roots[index].items():
                for name in below:
                    tree = tree.get(name) if isinstance(tree, Mapping) else None
                if tree is not None:
                    leaf[col] = _inserted(leaf.get(col, {}), prefix, tree)
        return leaf

    def check(self, roots: Sequence[Mapping[str, Any]]) -> None:
        """Check that no `Variable` shows where there is another variable.

        Raises:
            NameInUseError: a field that holds a Variable is named like a variable of its module.
        """
        if any(owns and below for slots in self.slots for _, _, below, owns in slots):
            self.assemble(roots)

    def disassemble(self, tree: Any, what: str, error: type[errors.LiftaxError]) -> tuple[dict[str, Any], ...]:
        """Undo `assemble`: take variables' tangents or cotangents, shaped like the target, apart by root.

        None, or an empty mapping, in the place of the whole or of a leaf is nothing.
        """
        leaves = self._leaves(tree, what, error)
        count = 1 + max(index for slots in self.slots for _, index, _, _ in slots)
        roots: list[dict[str, Any]] = [{} for _ in range(count)]
        for slots, leaf in zip(self.slots, leaves, strict=True):
            leaf = copied(leaf)
            for prefix, index, below, owns in sorted(slots, key=lambda s: -len(s[0])):
                for col in list(leaf):
                    part = _removed(leaf, col, prefix)
                    if part is _MISSING or (not owns and not part):
                        continue
                    _graft(roots[index], (col, *below), part, what, error)
        return tuple(roots)

    def _leaves(self, tree: Any, what: str, error: type[errors.LiftaxError]) -> list[Any]:
        is_leaf = lambda x: isinstance(x, Mapping)  # noqa: E731
        if tree is None or (isinstance(tree, Mapping) and not tree):
            return [{} for _ in self.slots]
        try:
            leaves = self.treedef.flatten_up_to(tree)
        except ValueError:
            got = jax.tree.structure(tree, is_leaf=is_leaf)
            raise error(
                f"{what}: expected variables' values shaped like the target, {self.treedef}, with a mapping "
                f"{{collection: tree}} for each *; got {got}."
            ) from None
        leaves = [{} if leaf is None else leaf for leaf in leaves]
        for leaf in leaves:
            if not isinstance(leaf, Mapping):
                raise error(
                    f"{what}: expected a mapping {{collection: tree}} for the variables, such as {{'params': …}}, "
                    f"got {type(leaf).__name__}."
                )
        return leaves


def _inserted(tree: Any, prefix: Path, part: Any) -> Any:
    """Return `tree` with `part` at `prefix`, which joins what is there already."""
    if not prefix:
        return {**tree, **part}
    name, *rest = prefix
    if not isinstance(tree, Mapping):
        tree = {}
    inside = tree.get(name, _MISSING)
    if inside is _MISSING and not rest:
        return {**tree, name: part}
    if rest or (isinstance(inside, Mapping) and isinstance(part, Mapping)):
        return {**tree, name: _inserted({} if inside is _MISSING else inside, tuple(rest), part)}
    raise errors.NameInUseError(
        f"The field {name!r} of a module holds a Variable, and the module has a variable of its own with this name, so "
        f"that their derivatives would be given under one name. Rename the field or the variable."
    )


def _removed(leaf: dict[str, Any], col: str, prefix: Path) -> Any:
    """Take out what is given below `prefix`: None where nothing is given on purpose, there or above."""
    if not prefix:
        return leaf.pop(col)
    tree = leaf[col]
    for name in prefix[:-1]:
        tree = tree.get(name, _MISSING) if isinstance(tree, Mapping) else tree
    if tree is None:
        return None
    return tree.pop(prefix[-1], _MISSING) if isinstance(tree, dict) else _MISSING


_MISSING = object()


def _graft(root: dict[str, Any], path: Path, part: Any, what: str, error: type[errors.LiftaxError]) -> None:
    for name in path[:-1]:
        root = root.setdefault(name, {})
    if isinstance(root.get(path[-1]), Mapping) and isinstance(part, Mapping):
        for name, sub in part.items():
            _graft(root[path[-1]], (name,), sub, what, error)
    elif root.get(path[-1]) is not None and part is not None and root[path[-1]] is not part:
        raise error(
            f"{what}: the variable {'/'.join(path)} is given twice, by two targets that share it, with other values."
            " Give it once, and None for it in the other."
        )
    elif root.get(path[-1]) is None:
        root[path[-1]] = part
