"""Recurrent cells, and the layers that run them along time, at Linen's address `nn.recurrent`."""

from liftax.nn.recurrent.rnn import (
    RNN,
    Bidirectional,
    ConvLSTMCell,
    GRUCell,
    LSTMCell,
    MGUCell,
    OptimizedLSTMCell,
    RNNCellBase,
    SimpleCell,
    flip_sequences,
)

__all__ = [
    "RNN", "Bidirectional", "ConvLSTMCell", "GRUCell", "LSTMCell", "MGUCell", "OptimizedLSTMCell", "RNNCellBase",
    "SimpleCell", "flip_sequences",
]  # fmt: skip
