#!/usr/bin/env bash
# The atlas of real Whispers: where their massive values are, from OpenAI's weights and real speech to results/atlas.md and
# a figure for each model, which examples/guide/atlas.md explains.
#
# atlas.sh [MODEL...]: default whisper-base whisper-tiny.en, folders in WHISPERQ_WHISPER; WHISPERQ_SPEECH holds the
# utterance lists. Done work is not done again: after an interruption, run it again. Further settings:
#   RUNS      where the run folders go, one for each model; default examples/whisper/run
#   RESULTS   where table and figures go; default examples/whisper/results
#   LIMIT     first N utterances of librispeech_dev; default 8
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
# shellcheck disable=SC2154 # runs, results, speech, whispers and models come from whispers.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../whispers.sh"

atlases=()
for name in "${models[@]}"; do
    export WHISPERQ_RUN="$runs/$name"
    mkdir -p "$WHISPERQ_RUN"
    wq outliers --massive --model "$whispers/$name" --test "librispeech=$speech/librispeech_dev.jsonl" \
        --limit "${LIMIT:-8}" --batch-size 2 --out "$WHISPERQ_RUN/atlas"
    atlases+=("$WHISPERQ_RUN/atlas")
done
python "$here/atlas.py" "${atlases[@]}" --out "$results"
