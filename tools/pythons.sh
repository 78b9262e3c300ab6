#!/usr/bin/env bash
# Find the Python interpreters that liftax runs on: version 3.11 or newer, able to make a virtual environment.
#
#   tools/pythons.sh             one line each, "3.11 /path/to/python", oldest first
#   tools/pythons.sh --default   the path of one: python3 where it is new enough, else the newest found
#
# Looks at python3 and python3.X on PATH and, where pyenv is installed, at every version that pyenv has.
set -euo pipefail

# Prints "3.X path" where $1 is an interpreter that serves. A name on PATH may be a shim that can't run: so each is run.
probe() {
  "$1" -c '
import sys
if sys.version_info >= (3, 11):
    import ensurepip, venv
    print("%d.%d" % sys.version_info[:2], sys.executable)
' 2>/dev/null || true
}

pyenv_root=${PYENV_ROOT:-$HOME/.pyenv}
if command -v pyenv >/dev/null 2>&1; then pyenv_root=$(pyenv root); fi

if [ "${1:-}" = --default ]; then
  found=$(probe python3 | cut -d' ' -f2-)
  if [ -n "$found" ]; then
    echo "$found"
    exit
  fi
fi

found=$(
  for name in python3.11 python3.12 python3.13 python3.14 python3; do probe "$name"; done
  # newest patch release first, since the first of a minor version is the one kept
  find "$pyenv_root/versions" -mindepth 1 -maxdepth 1 -name '3.1[1-9].*' 2>/dev/null | sort -Vr |
    while read -r folder; do probe "$folder/bin/python"; done
)
found=$(printf '%s\n' "$found" | awk 'NF && !seen[$1]++' | sort -V)

if [ -z "$found" ]; then
  echo "No Python 3.11 or newer that can make virtual environments was found on PATH or through pyenv." >&2
  echo "Install one (with its venv module), or name it: make PYTHON=/path/to/python3.11 ..." >&2
  exit 1
fi
if [ "${1:-}" = --default ]; then printf '%s\n' "$found" | tail -n 1 | cut -d' ' -f2-; else printf '%s\n' "$found"; fi
