#!/usr/bin/env bash
# The tests alone, in the environment VENV (.venv if it is not set). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${VENV:-.venv}"
if [ -d "$venv/bin" ]; then PATH="$PWD/$venv/bin:$PATH"; fi

# One thread in each of the two test workers: no contention, and the same order of sums every time.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Tests never reach the network; a stray download fails at once instead of hanging.
export HF_HUB_OFFLINE=1
# What is compiled for one run is there for the next one, and for the programs that tests start:
# our modules with their checks of shapes, and the tests with their assertions, take long.
unset PYTHONDONTWRITEBYTECODE

exec pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
