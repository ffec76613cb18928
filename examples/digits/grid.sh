#!/usr/bin/env bash
# The paper's tables in miniature, on real human digits: students of one teacher at three depths, plain and gated, with
# five seeds each, in float and in INT8 under both recipes, at one depth with activations of 6 and 5 bits as well; the
# other gates at that depth, three seeds each; planted outliers; two settings in which outliers might grow by
# themselves; then one report of all.
# grid.sh [RUNS]: where the run folders go; default examples/digits/run/grid. Done work is not done again: after an
# interruption, run it again. WHISPERQ_SPEECH names the folder that holds digits.jsonl.
# JOBS models are made at a time, by default one for each core, so that no speed is measured here. STEPS: of training.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
environment "${WHISPERQ_VENV:-$here/../../.venv}"
[ -f "$here/real/test_speaker.jsonl" ] || python "$here/join_digits.py" --speech "$WHISPERQ_SPEECH"
runs="${1:-$here/run/grid}"
mkdir -p "$runs"
runs="$(realpath "$runs")"
cores="$(nproc)" jobs="${JOBS:-$(nproc)}" steps="${STEPS:-300}"
export OMP_NUM_THREADS="$((cores / jobs > 0 ? cores / jobs : 1))"
training="--max-steps $steps --eval-every $steps --warmup-steps 50"
short="$runs/short.jsonl" # strings of two digits: most of the window is silence
grep -E '"text": "[a-z]+ [a-z]+"' "$here/real/train.jsonl" | sed "s|\"audio_filepath\": \"|&$here/real/|" >"$short"

models() {
    for seed in 0 1 2 3 4; do
        for layers in 3 2 4; do
            bits=8
            [ "$layers" = 3 ] && bits="8 6 5"
            for gate in none headwise; do
                echo "$runs/students/$layers-$gate/seed-$seed" "$layers" "$gate" "$seed" "'$bits'" "$training"
            done
        done
    done
    for seed in 0 1 2; do
        for gate in shared per-head mlp elementwise; do
            echo "$runs/students/3-$gate/seed-$seed" 3 "$gate" "$seed" 8 "$training"
        done
    done
}

growth() {
    for gate in none headwise; do
        at="$gate 3 $gate 0 8 --warmup-steps 50"
        echo "$runs/growth/fast/$at --max-steps $((2 * steps)) --learning-rate 0.002 --schedule constant"
        echo "$runs/growth/silent/$at --max-steps $steps --train $short"
    done
}

at_a_time() { xargs -P "$jobs" -L 1 bash "$1"; }

models | at_a_time "$here/model.sh"
for gate in none headwise; do
    for factor in 64 256; do
        echo "$runs/planted/$gate-$factor" "$runs/students/3-$gate/seed-0/distilled" "$factor"
    done
done | at_a_time "$here/planted.sh"
growth | at_a_time "$here/model.sh"
cd "$runs"
whisperq report students planted growth --out report --title "The paper's tables in miniature"
