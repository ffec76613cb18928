#!/usr/bin/env bash
# From any Whisper to one in INT8, with no data of your own: calibrated on speech that ships with whisperq.
# int8.sh [MODEL] [FILE...]: a Hub id or a folder, default openai/whisper-base; recordings to transcribe.
# RUN: where the artifacts go; default run/int8-<model>. What is done is not done again.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
speech="$root/whisperq/data/calibration"
model="${1:-openai/whisper-base}"
[ -d "$model" ] && model="$(realpath "$model")" && export HF_HUB_OFFLINE=1 # nothing is to be fetched
files=("$speech/audio/check-06.opus" "$speech/audio/check-15.opus")
[ $# -gt 1 ] && mapfile -t files < <(realpath -e "${@:2}")
[ ${#files[@]} -gt 1 ] || [ $# -lt 3 ]
export TOKENIZERS_PARALLELISM=false WHISPERQ_RUN="${RUN:-$root/run/int8-$(basename "$model")}"
source "$root/examples/environment.sh"
environment "${WHISPERQ_VENV:-$root/.venv}"
started=$SECONDS
mkdir -p "$WHISPERQ_RUN"
WHISPERQ_RUN="$(realpath "$WHISPERQ_RUN")"
cd "$WHISPERQ_RUN" # where no whisperq.yaml names other data
