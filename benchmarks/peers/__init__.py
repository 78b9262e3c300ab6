"""The same models and networks, written by hand and with each library."""
