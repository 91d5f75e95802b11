#!/usr/bin/env bash
# Format, lint, types, imports, tests: what CI runs. Stops at the first step that fails.
# Arguments go to pytest, e.g. scripts/check.sh -k boxes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi

# One thread in each of the two test workers: no contention, and the same order of sums every time.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Tests never reach the network; a stray download fails at once instead of hanging.
export HF_HUB_OFFLINE=1

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
step pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
echo "== all checks passed in $SECONDS s"
