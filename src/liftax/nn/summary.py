"""Tables of models under the address that they have in Linen, `nn.summary`."""

from liftax.module.summary import Row, rows, tabulate

__all__ = ["Row", "rows", "tabulate"]
