#!/usr/bin/env bash
# The table of real Whispers: what INT8 costs them in words, in KL, in megabytes and in time, from their weights and real
# speech to results/table.md. Every number is in the manifest of a whisperq command, or is timed by speed.py.
#
# table.sh [MODEL...]: default whisper-base whisper-tiny.en, folders in WHISPERQ_WHISPER. WHISPERQ_SPEECH holds the
# utterance lists. Done work is not done again: after an interruption, run it again. Further settings:
#   RUNS      where the run folders go, one for each model; default examples/whisper/run
#   RESULTS   where the table goes; default examples/whisper/results
#   SYSTEMS   some of the systems only, such as "float dynamic"; default all
#   PARTS     some of "systems speed figures robustness agreement"; the table is made of what is there
#   LIMIT     first N utterances of each test list; PAPER_LIMIT, KL_LIMIT: of the emulated recipe and of the KL
#   SOUNDS    recordings of silence, of noise and of music; SPOKEN of each test list: for what may break beside words
#   ROBUSTNESS  the systems that transcribe them, default "before after"
#   AGREEMENT first N utterances of each test list that int8 and the emulation transcribe side by side, default 100
#   BATCHES   of calibration, eight utterances each; ROUNDS, SPEED_LJ, SPEED_LIBRI: of the timing,
#             which is done anew where RUNS/MODEL/speed.json is gone
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
# shellcheck disable=SC2154 # runs, results, speech, whispers and models come from whispers.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../whispers.sh"
paper_limit="${PAPER_LIMIT:-12}" kl_limit="${KL_LIMIT:-24}"

# Test and calibration share no recording. All commands read English under one normaliser.
sets=(--test "librispeech=$speech/librispeech_dev.jsonl" --test "ljspeech=$speech/ljspeech_train.jsonl")
data=(--data "$speech/librispeech_dev.jsonl" --data "$speech/ljspeech_train.jsonl")

# NAME RUNTIME UTTERANCES FLAGS: what `quantize` is told, and how `eval` runs it. No kernel computes the paper's recipe:
# it is emulated, which is slow, and run on fewer utterances.
systems() {
    echo "dynamic int8 ${LIMIT:--} --activations dynamic"
    echo "before int8 ${LIMIT:--} --smooth none --massive none"
    echo "after int8 ${LIMIT:--}"
    echo "embedded int8 ${LIMIT:--} --calibration $WHISPERQ_RUN/calibration-embedded"
    for sites in linear blocks all; do
        for exception in attention mlp; do
            echo "paper-$sites-$exception emulated $paper_limit" \
                "--recipe paper --sites $sites --exception $exception --massive none"
        done
        echo "paper-$sites-massive emulated $paper_limit --recipe paper --sites $sites --massive auto"
    done
}

listed() { [[ " $1 " == *" $2 "* ]]; }
wanted() { [ -z "${SYSTEMS:-}" ] || listed "$SYSTEMS" "$1"; }
part() { listed "${PARTS:-systems speed figures robustness agreement}" "$1"; }
there() { [ -f "$WHISPERQ_RUN/eval/$1/manifest.json" ]; }

# evaluate NAME RUNTIME UTTERANCES MODEL
evaluate() {
    local limit=()
    [ "$3" = - ] || limit=(--limit "$3")
    wq eval --model "$4" "${sets[@]}" --normalizer english --runtime "$2" "${limit[@]}" --out "$WHISPERQ_RUN/eval/$1"
    python "$here/pooled.py" "$WHISPERQ_RUN/eval/$1" "$WHISPERQ_RUN/pooled/$1.jsonl"
}

# against A B: what B makes worse than A over both sets together, by two margins, and in each set.
against() {
    local pair="$WHISPERQ_RUN/comparisons/$2-vs-$1"
    for margin in 0.3 0.2; do
        wq compare "$WHISPERQ_RUN/pooled/$1.jsonl" "$WHISPERQ_RUN/pooled/$2.jsonl" --common --margin "$margin" \
            --normalizer english --spelling "$model/normalizer.json" --out "$pair-$margin"
    done
    wq compare "$WHISPERQ_RUN/eval/$1" "$WHISPERQ_RUN/eval/$2" --common --out "$pair-sets"
}

# system NAME RUNTIME UTTERANCES FLAGS...
system() {
    wq quantize --out "$WHISPERQ_RUN/quantized/$1" "${@:4}"
    wq sensitivity --by model --model "$1" "${data[@]}" --limit "$kl_limit" --out "$WHISPERQ_RUN/sensitivity/$1"
    evaluate "$1" "$2" "$3" "$WHISPERQ_RUN/quantized/$1"
    against float "$1"
    { [[ "$1" != before && "$1" != after ]] || ! there dynamic; } || against dynamic "$1"
}

all_systems() {
    ! wanted float || evaluate float float "${LIMIT:--}" "$model"
    wq calibrate --model "$model" --data "$speech/librispeech_train.jsonl" --batches "${BATCHES:-16}" --batch-size 8
    # without a list of its own it listens to the synthesised sentences that ship with whisperq
    ! wanted embedded || wq calibrate --model "$model" --batches 6 --batch-size 8 --out "$WHISPERQ_RUN/calibration-embedded"
    systems >"$WHISPERQ_RUN/systems.txt"
    while read -r -a line; do
        ! wanted "${line[0]}" || system "${line[@]}"
    done <"$WHISPERQ_RUN/systems.txt"
}

# The paper's Figures 1 and 2, where it found them: the last decoder layer. LJ Speech is written as Whisper writes.
figures() {
    local limit=(--limit "$kl_limit") test=("${sets[@]}") place
    place="$results/$(basename "$model")"
    wq plot-attention --model "$model" "${test[@]:2:2}" --layer dec.-1 --head "${HEAD:-3}" \
        --out "$WHISPERQ_RUN/attention"
    wq outliers --model "$model" "${test[@]}" "${limit[@]}" --layer dec.-1.out_proj --out "$WHISPERQ_RUN/outliers"
    python "$here/figures.py" "$WHISPERQ_RUN/attention" "$place-attention.png"
    python "$here/figures.py" "$WHISPERQ_RUN/outliers" "$place-outliers.png"
}

speed() {
    [ -f "$WHISPERQ_RUN/speed.json" ] || python "$here/speed.py" "$model" "$WHISPERQ_RUN" --speech "$speech" \
        --rounds "${ROUNDS:-5}" --ljspeech "${SPEED_LJ:-24}" --librispeech "${SPEED_LIBRI:-8}"
}

# What may break beside words: silence, noise and music, loops, empty transcripts, falling times.
robustness() {
    for system in ${ROBUSTNESS:-before after}; do
        ! there "$system" || wq robustness --model "$system" "${sets[@]}" --runtime int8 --sounds "${SOUNDS:-20}" \
            --limit "${SPOKEN:-30}" --out "$WHISPERQ_RUN/robustness/$system"
    done
}

# Do the integers write what their emulation writes? The measure of that is the emulation beside itself with the
# instructions of an older CPU: its sums are rounded in another order.
agreement() {
    local same=(--model "$WHISPERQ_RUN/quantized/after" "${sets[@]}" --normalizer english --limit "${AGREEMENT:-100}")
    there after || return 0
    wq eval "${same[@]}" --runtime int8 --attention-dtype float32 --out "$WHISPERQ_RUN/agreement/int8"
    wq eval "${same[@]}" --runtime emulated --out "$WHISPERQ_RUN/agreement/emulated"
    ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
        whisperq eval "${same[@]}" --runtime emulated --out "$WHISPERQ_RUN/agreement/emulated-avx2" >/dev/null
}

for name in "${models[@]}"; do
    model="$whispers/$name"
    export WHISPERQ_RUN="$runs/$name"
    mkdir -p "$WHISPERQ_RUN"
    for each in systems:all_systems speed:speed figures:figures robustness:robustness agreement:agreement; do
        ! part "${each%%:*}" || "${each##*:}"
    done
done
python "$here/table.py" "$runs" --out "$results"
