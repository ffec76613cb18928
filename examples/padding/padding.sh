#!/usr/bin/env bash
# What leaving the padding out costs in words and saves in time: --padding short beside full, float and INT8, from
# Whisper's weights and real speech to results/padding.md. Every word error rate is in the manifest of a whisperq
# command, every time in timing.json.
#
# padding.sh [MODEL...]: default whisper-base whisper-tiny.en, folders in WHISPERQ_WHISPER. WHISPERQ_SPEECH holds the
# utterance lists. Done work is not done again: after an interruption, run it again. Nothing else should run beside the
# timing. Further settings:
#   RUNS      where the run folders go, one for each model; default examples/padding/run
#   RESULTS   where the table and the figure go; default examples/padding/results
#   PARTS     some of "words curve timing"; the table is made of what is there
#   RUNTIMES  which of "float int8" are evaluated; default both
#   LIMIT     first N utterances of each test list; CURVE: of each, for the curve of WER over the tail, default 100
#   BATCHES   of calibration, eight utterances each
#   ROUNDS    of the timing, default 5, over SPEED_LJ recordings of LJ Speech, default 24
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
# shellcheck disable=SC2154 # runs, results, speech, whispers and models come from whispers.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../whispers.sh"

sets=(--test "librispeech=$speech/librispeech_dev.jsonl" --test "ljspeech=$speech/ljspeech_train.jsonl")

part() { [[ " ${PARTS:-words curve timing} " == *" $1 "* ]]; }

# evaluate NAME MODEL RUNTIME PADDING
evaluate() {
    local limit=()
    [ -z "${LIMIT:-}" ] || limit=(--limit "$LIMIT")
    wq eval --model "$2" "${sets[@]}" --normalizer english --runtime "$3" --padding "$4" "${limit[@]}" \
        --out "$WHISPERQ_RUN/eval/$1"
    python "$here/../whisper/pooled.py" "$WHISPERQ_RUN/eval/$1" "$WHISPERQ_RUN/pooled/$1.jsonl"
}

# words RUNTIME MODEL: both ways, and what short makes worse, over both sets together and in each
words() {
    local pair="$WHISPERQ_RUN/comparisons/$1"
    evaluate "$1-full" "$2" "$1" full
    evaluate "$1-short" "$2" "$1" short
    wq compare "$WHISPERQ_RUN/pooled/$1-full.jsonl" "$WHISPERQ_RUN/pooled/$1-short.jsonl" --margin 0.3 \
        --normalizer english --spelling "$model/normalizer.json" --out "$pair"
    wq compare "$WHISPERQ_RUN/eval/$1-full" "$WHISPERQ_RUN/eval/$1-short" --out "$pair-sets"
}

for name in "${models[@]}"; do
    model="$whispers/$name"
    export WHISPERQ_RUN="$runs/$name"
    mkdir -p "$WHISPERQ_RUN"
    wq calibrate --model "$model" --data "$speech/librispeech_train.jsonl" --batches "${BATCHES:-16}" --batch-size 8
    wq quantize --out "$WHISPERQ_RUN/quantized/int8"
    for runtime in ${RUNTIMES:-float int8}; do
        folder="$model"
        [ "$runtime" = float ] || folder="$WHISPERQ_RUN/quantized/int8"
        ! part words || words "$runtime" "$folder"
        ! part curve || python "$here/curve.py" "$folder" "$runtime" "$WHISPERQ_RUN/curve-$runtime.json" \
            --speech "$speech" --limit "${CURVE:-100}"
    done
    ! part timing || [ -f "$WHISPERQ_RUN/timing.json" ] || python "$here/timing.py" "$model" "$WHISPERQ_RUN" \
        --speech "$speech" --rounds "${ROUNDS:-5}" --ljspeech "${SPEED_LJ:-24}"
done
python "$here/table.py" "$runs" --out "$results"
