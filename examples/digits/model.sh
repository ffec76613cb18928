#!/usr/bin/env bash
# model.sh RUN LAYERS GATE SEED BITS [OPTION...]: one model of grid.sh, from the teacher's layers to its numbers: word
# error rates and teacher-forced outputs in float and at each of BITS ("8 6 5") of the activations under both recipes,
# and its outliers. OPTIONs go to distill. What is done is not done again. CONFIG names another whisperq.yaml.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
run=$1 layers=$2 gate=$3 seed=$4 bits=$5
shift 5
export WHISPERQ_RUN="$run"
mkdir -p "$run"
cd "$run" # where no other whisperq.yaml lies
source "$here/../preloaded.sh"

wq init-student --config "${CONFIG:-$here/whisperq.yaml}" --layers "$layers" --gate "$gate" --seed "$seed"
wq distill --seed "$seed" "$@"
wq calibrate --batches 16
wq eval --model distilled
for recipe in gemm paper; do
    for width in $bits; do
        wq quantize --recipe "$recipe" --activation-bits "$width"
        wq eval --model "$recipe-w8a$width"
        wq sensitivity --model "$recipe-w8a$width" --by model --limit 200
    done
done
wq outliers
