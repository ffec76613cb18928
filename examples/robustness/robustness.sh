#!/usr/bin/env bash
# What breaks transcription elsewhere. Words lost or made up beside faster-whisper with the same weights: 60 clips with
# pauses, 20 minutes of continuous speech, 20 clips in which nobody speaks. And INT8 beside float at eight levels, from
# 60 dB below the usual to clipped. From float weights to results/robustness.md.
#
# robustness.sh [MODEL...]: default whisper-base whisper-tiny.en, folders in WHISPERQ_WHISPER; WHISPERQ_SPEECH holds the
# utterance lists. Done work is not done again: after an interruption, run it again. Further settings:
#   RUNS      where the run folders go, one for each model; default examples/robustness/run
#   RESULTS   where the table goes; default examples/robustness/results
#   LEVELS    first N utterances of each list that are transcribed at each level; default 60
#   MARGIN    points of WER by which INT8 may be worse than float at a level; default 0.5
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
# shellcheck disable=SC2154 # runs, results, speech, whispers and models come from whispers.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../whispers.sh"
margin="${MARGIN:-0.5}"

# transcripts NAME MODEL RUNTIME FORMAT: a file for each recording
transcripts() {
    local kind place
    for kind in paused continuous sounds; do
        place="$WHISPERQ_RUN/heard/$1/$kind"
        [ ! -d "$place" ] || continue
        mkdir -p "$place.partial"
        wq transcribe "$WHISPERQ_RUN/clips/$kind"/*.flac --model "$2" --runtime "$3" --format "$4" \
            --language en --out "$place.partial" --force
        mv "$place.partial" "$place"
    done
}

# levels NAME MODEL RUNTIME
levels() {
    local tests=() list
    for list in "$WHISPERQ_RUN/levels"/*.jsonl; do
        tests+=(--test "$(basename "$list" .jsonl)=$list")
    done
    wq eval --model "$2" "${tests[@]}" --runtime "$3" --normalizer english --out "$WHISPERQ_RUN/eval/$1"
}

# made FOLDER SCRIPT FLAGS: what the script makes is there whole, or not at all
made() {
    [ -d "$1" ] || { python "$here/$2" "$1.partial" --speech "$speech" "${@:3}" && mv "$1.partial" "$1"; }
}

folders=()
for name in "${models[@]}"; do
    model="$whispers/$name" run="$runs/$name"
    export WHISPERQ_RUN="$run"
    folders+=("$run")
    mkdir -p "$run"
    made "$run/clips" clips.py
    made "$run/levels" levels.py --librispeech "${LEVELS:-60}" --ljspeech "${LEVELS:-60}"
    wq calibrate --model "$model" --data "$speech/librispeech_train.jsonl" --batches 16 --batch-size 8
    wq quantize --model "$model" --out "$run/quantized"
    for format in text json srt; do transcripts "whisperq int8, $format" "$run/quantized" int8 "$format"; done
    transcripts "whisperq float, json" "$model" float json
    [ -d "$run/faster-whisper" ] || python "$here/../whisper/peer.py" "$model" "$run/faster-whisper"
    for kind in paused continuous sounds; do
        python "$here/peer.py" "$run/faster-whisper" "$run/heard/faster-whisper/$kind" "$run/clips/$kind"/*.flac
    done
    levels float "$model" float
    levels int8 "$run/quantized" int8
    wq compare "$run/eval/float" "$run/eval/int8" --common --margin "$margin" --out "$run/levels-int8-vs-float"
done
python "$here/table.py" "${folders[@]}" --out "$results"
