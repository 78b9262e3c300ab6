"""Fields of dataclasses by keyword only, under the address that they have in Linen: those of Python."""

from dataclasses import KW_ONLY, dataclass, field

__all__ = ["KW_ONLY", "dataclass", "field"]
