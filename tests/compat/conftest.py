"""Keep pytest from importing programs whose packages only `make compat` installs."""

collect_ignore = ["programs", "measure.py"]
