#!/usr/bin/env bash
# chain.sh CONFIG RUNS: the embedded teacher, a plain and a gated student of it, from the teacher's layers to their word error
# rates in float and in INT8 under both recipes, their outlier statistics and figures, and one table.
# Each command is one job that could run anywhere; done ones are not done again.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$2"
config="$(realpath "$1")" runs="$(realpath "$2")"
cd "$runs" # where no other whisperq.yaml lies
source "$here/../preloaded.sh"

WHISPERQ_RUN="$runs/teacher" wq eval --config "$config" --model "$here/teacher"
for gate in none headwise; do
    export WHISPERQ_RUN="$runs/$gate"
    wq init-student --config "$config" --gate "$gate"
    wq distill
    wq calibrate --batches 16
    wq eval --model distilled
    for recipe in gemm paper; do
        wq quantize --recipe "$recipe"
        wq eval --model "$recipe-w8a8"
    done
done

wq outliers --compare "$runs/none/distilled"
wq outliers --layer dec.1.out_proj --compare "$runs/none/distilled"
wq plot-attention --layer dec.1 --head 1
wq plot-attention --layer dec.1.cross --head all
python "$here/table.py" "$runs"
