#!/usr/bin/env bash
# The same chain on real human digits. WHISPERQ_SPEECH names the folder that holds digits.jsonl.
# real.sh [RUNS]: where the run folders go; default examples/digits/run/real.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
environment "${WHISPERQ_VENV:-$here/../../.venv}"
[ -f "$here/real/test_speaker.jsonl" ] || python "$here/join_digits.py" --speech "$WHISPERQ_SPEECH"
bash "$here/chain.sh" "$here/whisperq.yaml" "${1:-$here/run/real}"
