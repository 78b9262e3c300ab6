"""A module as text: its fields, then its submodules."""

import dataclasses
from typing import Any


def module_text(module: Any) -> str:
    """Return a text with a line for each field and a block for each submodule."""
    cls = type(module).__name__
    fields = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name") and f.repr]
    lines = []
    if fields:
        lines.append("# attributes")
        lines += [f"{f.name} = {_value(module.__dict__.get(f.name))}" for f in fields]
    state = module.__dict__.get("_state")
    children = {k: v for k, v in (state.children if state else {}).items() if hasattr(v, "lift_parts")}
    if children:
        lines.append("# children")
        lines += [f"{name} = {module_text(child)}" for name, child in children.items()]
    if not lines:
        return f"{cls}()"
    body = "\n".join("    " + line for text in lines for line in text.split("\n"))
    return f"{cls}(\n{body}\n)"


def _value(value: Any) -> str:
    if callable(value) and not hasattr(value, "lift_parts"):
        return getattr(value, "__name__", repr(value))
    return repr(value)
