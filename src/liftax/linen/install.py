"""Let Linen's addresses in Flax resolve to liftax, for the rest of the process."""

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import Any

from liftax import core, errors, nn
from liftax.linen.addresses import ROOTS, LinenFinder

# Flags of Flax with which Linen behaves otherwise than liftax does, and what to do about each.
FLAGS = {
    "flax_preserve_adopted_names": "Set `preserve_adopted_names = True` in the classes of the modules concerned.",
    "flax_return_frozendict": "Variables are plain dicts in liftax: call `flax.core.freeze` where a program needs one.",
    "flax_fix_rng_separator": "The keys drawn would differ from those with the flag.",
}


def install() -> str:
    """Let `flax.linen`, `flax.core` and Linen's errors in `flax.errors` resolve to liftax, whatever imports them.

    Call it first, before anything imports Flax; `python -m liftax.linen script.py` does so. A program of your own needs
    none of this: it says `from liftax import nn`. A second call changes nothing.

    Returns:
        The line that it also writes to standard error: what was replaced, and the versions.

    Raises:
        LinenInstallError: Flax's own Linen was imported before, or a flag of Flax is set that liftax does not follow.
            From then on `flax.config.update` raises it too.
        ModuleNotFoundError: Flax is not installed.

    Example:
        >>> import subprocess, sys
        >>> program = '''
        ... import liftax.linen
        ... liftax.linen.install()
        ... from flax import linen
        ... print(linen.Dense.__module__)
        ... '''
        >>> subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout.strip()
        'liftax.nn.linear.dense'
    """
    before = [name for name in ("flax.core", "flax.linen") if _is_flax(sys.modules.get(name))]
    if before:
        raise errors.LinenInstallError(
            f"liftax.linen.install: {' and '.join(before)} of Flax were imported before, and what holds their classes "
            "would go on with them. Call install() before the first import of flax or of a package that is built on "
            "it (in a notebook: in the first cell, after a restart), or run `python -m liftax.linen script.py`."
        )
    line = f"liftax.linen: flax.linen, flax.core and flax.errors are those of liftax {_version('liftax')}"
    if not any(isinstance(finder, LinenFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LinenFinder())
        try:
            flax = importlib.import_module("flax")
        except ModuleNotFoundError as error:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, LinenFinder)]
            if error.name == "flax":
                error.add_note("liftax.linen runs programs that import Flax: install it (pip install flax).")
            raise
        for name in ROOTS:
            importlib.import_module(name)
        _guard_flags(flax.config)
        _register_serialization(importlib.import_module("flax.serialization"))
        line += f"; the rest is that of flax {_version('flax')}."
        sys.stderr.write(f"{line}\n")
        return line
    return f"{line}; the rest is that of flax {_version('flax')}."


def _is_flax(module: ModuleType | None) -> bool:
    return module is not None and module.__name__.partition(".")[0] == "flax"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def _guard_flags(config: Any) -> None:
    """Refuse the flags that liftax does not follow, those that are set now and those that will be."""

    def demand_default(name: str, value: Any) -> None:
        if name in FLAGS and value:
            raise errors.LinenInstallError(
                f"flax.config.{name} is {value!r}, which liftax does not follow: a program on it would differ from "
                f"the same program on Linen. {FLAGS[name]} Else run it without liftax.linen."
            )

    update = config.update

    def checked_update(flag: Any, value: Any, /) -> None:
        demand_default(getattr(flag, "name", flag), value)
        update(flag, value)

    for name in FLAGS:
        demand_default(name, getattr(config, name, False))
    config.update = checked_update


def _register_serialization(serialization: Any) -> None:
    """Tell `flax.serialization` how to save what it would save of Linen's own classes."""

    def frozen_state(xs: Any) -> dict[str, Any]:
        return {str(key): serialization.to_state_dict(value) for key, value in xs.items()}

    def restore_frozen(xs: Any, states: dict[str, Any]) -> Any:
        return core.FrozenDict(serialization.from_state_dict(dict(xs), states))

    def box_state(box: Any) -> dict[str, Any]:
        return {"value": serialization.to_state_dict(box.value)}

    def restore_box(box: Any, state: dict[str, Any]) -> Any:
        return box.replace(value=serialization.from_state_dict(box.value, state["value"], name="value"))

    serialization.register_serialization_state(core.FrozenDict, frozen_state, restore_frozen, override=True)
    for cls in (nn.Partitioned, nn.LogicallyPartitioned):
        serialization.register_serialization_state(cls, box_state, restore_box, override=True)
