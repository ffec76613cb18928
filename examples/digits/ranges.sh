#!/usr/bin/env bash
# Every range estimator at W8A8, W4A8 and W4A4, on the gated Whisper student of real.sh and on the embedded wav2vec 2.0:
# word error rates on real digits, and how far the logits are from the float model's.
# ranges.sh [RUNS]: the run folders that real.sh left, which take in whisper/ and wav2vec2/; default examples/digits/run/real.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
environment "${WHISPERQ_VENV:-$here/../../.venv}"
runs="$(realpath "${1:-$here/run/real}")"
log="$runs/ranges-log.txt"
cd "$runs"
source "$here/../preloaded.sh"

for name in whisper wav2vec2; do
    export WHISPERQ_RUN="$runs/ranges/$name"
    model="$here/wav2vec2"
    [ "$name" = whisper ] && model="$runs/headwise/distilled"
    wq eval --config "$here/whisperq.yaml" --model "$model"
    wq calibrate --model "$model" --observer ema,minmax,percentile,mse --activation-bits 8,4
    wq calibrate --model "$model" --observer stablequant --activation-bits 8,4 --out "$WHISPERQ_RUN/stablequant"
    for bits in "8 8" "4 8" "4 4"; do
        read -r weights activations <<<"$bits"
        for observer in ema minmax percentile mse stablequant; do
            calibration="$WHISPERQ_RUN/calibration"
            [ "$observer" = stablequant ] && calibration="$WHISPERQ_RUN/stablequant"
            scheme="w${weights}a${activations}-$observer"
            wq quantize --calibration "$calibration" --observer "$observer" --weight-bits "$weights" \
                --activation-bits "$activations" --smooth none --massive none --out "$WHISPERQ_RUN/quantized/$scheme"
            wq eval --model "$scheme"
            wq sensitivity --model "$scheme" --by model --limit 200
        done
    done
done
python "$here/ranges.py" "$runs/ranges"
