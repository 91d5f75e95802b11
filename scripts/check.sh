#!/usr/bin/env bash
# Format, lint, types, imports, tests: what CI runs. Stops at the first step that fails.
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

step ruff format --check
step ruff check
step pyright
step lint-imports
step scripts/test.sh "$@"
echo "== all checks passed in $SECONDS s"
