"""How a layer names itself in the text of an error: the path at which it is, and its class."""

from liftax.module import Module

__all__: list[str] = []


def place(module: Module) -> str:
    """Return `"/Encoder_0/Dense_1 (Dense)"`."""
    return f"/{'/'.join(module.path)} ({type(module).__name__})"
