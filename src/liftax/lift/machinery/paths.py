"""Variables of packed roots, nested as scopes hold them, and flat as a run reports them: (collection, *path, name)."""

from collections.abc import Mapping, Sequence
from typing import Any

from liftax.core.scope import copied
from liftax.typing import Path


def updated(roots: Sequence[Mapping[str, Any]], written: Sequence[Mapping[Path, Any]]) -> tuple[dict[str, Any], ...]:
    """Return nested variables, with flat ones written into them."""
    new = []
    for root, values in zip(roots, written, strict=True):
        tree: Any = copied(root) if values else root
        for (*path, name), value in values.items():
            node: Any = tree
            for step in path:
                node = node.setdefault(step, {})
            node[name] = value
        new.append(tree)
    return tuple(new)


def has(root: Any, key: Path) -> bool:
    """Tell whether there is something at `key` in nested mappings."""
    for name in key:
        if not isinstance(root, Mapping) or name not in root:
            return False
        root = root[name]
    return True


def get(root: Any, key: Path) -> Any:
    """Return what is at `key` in nested mappings."""
    for name in key:
        root = root[name]
    return root


def flat(tree: Any, path: Path = ()) -> dict[Path, Any]:
    """Return what nested mappings hold, by path."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {p: x for name, sub in tree.items() for p, x in flat(sub, (*path, name)).items()}


def nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Return flat variables as scopes hold them: undo `flat`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree
