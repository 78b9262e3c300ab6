"""Which trace runs now, under the address that it has in Linen, `core.tracers`."""

from typing import Any

from liftax import _compat


def current_trace() -> Any:
    """Return what tells the trace of JAX that runs now from others."""
    return _compat.trace_state()


def check_trace_level(base_level: Any) -> bool:
    """Tell whether the trace that runs now is the one that `current_trace` returned."""
    return _compat.trace_state() == base_level
