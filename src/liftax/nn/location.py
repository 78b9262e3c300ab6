"""How a layer names itself in the text of an error: its class, and the path at which it is."""

from ..module import Module

__all__: list[str] = []


def at(module: Module) -> str:
    """Return `"Dense at /Encoder_0/Dense_1"`."""
    return f"{type(module).__name__} at /{'/'.join(module.path)}"
