"""Targets taken apart into plain values, and put together again: what every lifted transform begins and ends with."""
