"""The programs, by theme."""
