"""Functions of a module with a derivative rule of their own."""
