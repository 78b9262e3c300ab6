"""One file for each family of layers, each with a list `ROWS`; see `tests/nn/table.py`."""
