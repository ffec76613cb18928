#!/usr/bin/env bash
# From any Whisper to one in INT8, with no data of your own: calibrated on speech that ships with whisperq.
# int8.sh [MODEL] [FILE...]: a Hub id or a folder, default openai/whisper-base; recordings to transcribe, default two
# of the embedded ones. RUN: where the artifacts go, default run/int8-<model>. What is done is not done again.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/examples/environment.sh"
environment "${WHISPERQ_VENV:-$root/.venv}"

speech="$root/whisperq/data/calibration"
model="${1:-openai/whisper-base}"
if [ -d "$model" ]; then
    model="$(realpath "$model")"
    export HF_HUB_OFFLINE=1 # nothing has to be fetched
fi
files=("$speech/audio/check-06.opus" "$speech/audio/check-15.opus")
if [ $# -gt 1 ]; then
    files=()
    for file in "${@:2}"; do files+=("$(realpath -e "$file")"); done
fi
run="${RUN:-$root/run/int8-$(basename "$model")}"
mkdir -p "$run"
run="$(realpath "$run")"
cd "$run" # where no whisperq.yaml names other data
export WHISPERQ_RUN="$run" TOKENIZERS_PARALLELISM=false
started=$SECONDS

# Six batches of 8 are all of the embedded speech; EMA would clip the few massive values that a pretrained Whisper needs.
whisperq calibrate --model "$model" --batches 6 --observer minmax
whisperq quantize
check=(--test "check=$speech/check.jsonl" --batch-size 4)
whisperq eval --model "$model" "${check[@]}" --out eval/float >/dev/null
whisperq eval --runtime int8 "${check[@]}" --out eval/int8 >/dev/null
echo
whisperq transcribe --runtime int8 "${files[@]}"
python "$root/examples/int8_table.py" "$run"
echo "int8: $((SECONDS - started)) seconds, installation apart; the model is $(dirname "$run"/quantized/*/manifest.json)"
