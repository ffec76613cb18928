#!/usr/bin/env bash
# Mixed precision at 3.5 bits, learnt in one stage, in two and uniform, with equal steps on equal data: the gated Whisper
# student of real.sh and the embedded wav2vec 2.0, each compared with its float self, utterance by utterance.
# Nothing else should run beside it: it measures time.
# mixed.sh [RUNS]: the run folders that real.sh left; default examples/digits/run/real.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
environment "${WHISPERQ_VENV:-$here/../../.venv}"
runs="$(realpath "${1:-$here/run/real}")"
log="$runs/mixed-log.txt"
cd "$runs"
source "$here/../preloaded.sh"

for name in whisper wav2vec2; do
    export WHISPERQ_RUN="$runs/mixed/$name"
    model="$here/wav2vec2" steps=100 every=50 search=1 # its convolutions run at the rate of the samples
    [ "$name" = whisper ] && model="$runs/headwise/distilled" steps=300 every=100 search=4
    float="$WHISPERQ_RUN/eval/float"
    wq eval --config "$here/whisperq.yaml" --model "$model" --out "$float"
    for mode in one-stage two-stage uniform; do
        wq mixed-precision --model "$model" --mode "$mode" --target-bits 3.5 --max-steps "$steps" --batch-size 16 \
            --learning-rate 3e-4 --warmup-steps 20 --eval-every "$every" --search-batches "$search"
        wq eval --model "mixed-$mode-3.5bit"
        wq compare "$float" "$WHISPERQ_RUN/eval/mixed-$mode-3.5bit-emulated" --margin 0.3 \
            --out "$WHISPERQ_RUN/comparisons/$mode"
    done
done
python "$here/mixed.py" "$runs/mixed"
