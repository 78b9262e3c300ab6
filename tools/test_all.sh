#!/usr/bin/env bash
# Run the whole suite, the long sweep included, on every supported Python that this machine has.
#
# Each interpreter gets an environment of its own in .venvs/ and the JAX that pip resolves there: the oldest that liftax
# serves on 3.11 (constraints.txt pins it), the newest release elsewhere. Arguments go to pytest; ONLY='3.11 3.13' chooses
# among the interpreters.
set -euo pipefail
cd "$(dirname "$0")/.."

supported='^3\.1[123] '
interpreters=$(tools/pythons.sh | grep -E "$supported" || true)
if [ -n "${ONLY:-}" ]; then interpreters=$(grep -E "^(${ONLY// /|}) " <<<"$interpreters" || true); fi
if [ -z "$interpreters" ]; then
  echo "test-all: none of Python 3.11, 3.12, 3.13 was found (see tools/pythons.sh)" >&2
  exit 1
fi

mkdir -p .venvs
rows=()
failed=0
while read -r version python <&3; do
  venv=.venvs/$version
  echo "== Python $version ($python)"
  if [ ! -x "$venv/bin/python" ]; then "$python" -m venv "$venv"; fi
  jax='-'
  result='no install'
  if "$venv/bin/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[test,demo]'; then
    jax=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("jax"))')
    if "$venv/bin/python" -m pytest -n "${JOBS:-2}" --hypothesis-profile=long "$@"; then
      result=passed
    else
      result=FAILED
    fi
  fi
  if [ "$result" != passed ]; then failed=1; fi
  rows+=("$(printf '%-8s %-12s %s' "$version" "$jax" "$result")")
done 3<<<"$interpreters"

echo
printf '%-8s %-12s %s\n' python jax result
printf '%s\n' "${rows[@]}"
exit "$failed"
