#!/usr/bin/env bash
# planted.sh RUN MODEL FACTOR: outliers planted in a trained model (planted.py), and what range estimators and smoothing
# make of them at W8A8.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
run=$1 model=$2 factor=$3
export WHISPERQ_RUN="$run"
mkdir -p "$run"
cd "$run"
source "$here/../preloaded.sh"

[ -d "planted-$factor" ] || python "$here/planted.py" "$model" "$factor" "planted-$factor"
wq eval --config "$here/whisperq.yaml" --model "planted-$factor"
wq calibrate --model "planted-$factor" --observer ema,minmax,percentile --percentile 99.9
for observer in ema minmax percentile smooth; do
    how=(--observer "$observer" --smooth none)
    [ "$observer" = smooth ] && how=(--observer minmax --smooth 0.5)
    wq quantize "${how[@]}" --massive none --out "$run/quantized/$observer"
    wq eval --model "$observer"
    wq sensitivity --model "$observer" --by model --limit 200
done
