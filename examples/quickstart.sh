#!/usr/bin/env bash
# From nothing to distilled, gated, INT8 students with their word error rates, on the embedded digits, offline.
# quickstart.sh [RUNS]: where the run folders go; default examples/digits/run/quickstart.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/examples/environment.sh"
environment "${WHISPERQ_VENV:-$root/.venv}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
started=$SECONDS
bash "$root/examples/digits/chain.sh" "$root/examples/digits/quickstart.yaml" \
    "${1:-$root/examples/digits/run/quickstart}"
echo "quickstart: $((SECONDS - started)) seconds, installation apart"
