#!/usr/bin/env bash
# Format, lint, types, imports, tests: what CI runs. Stops at the first step that fails, but for the
# types: they take one core for minutes, so they are checked beside the rest and told of at its end.
# Arguments go to pytest, e.g. scripts/check.sh -k boxes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi

step() {
  local started=$SECONDS
  echo "== $*"
  "$@" || { local code=$?; echo "== failed: $*" >&2; exit "$code"; }
  echo "== $((SECONDS - started)) s"
}

types=$(mktemp)
pyright >"$types" 2>&1 &
pyright=$!
trap 'kill "$pyright" 2>/dev/null || true; rm -f "$types"' EXIT

wait_for() {
  local code=0
  wait "$pyright" || code=$?
  cat "$types"
  return "$code"
}

step ruff format --check
step ruff check
step lint-imports
step scripts/test.sh "$@"
step wait_for pyright
echo "== all checks passed in $SECONDS s"
