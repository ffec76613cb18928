#!/usr/bin/env bash
# Words that transcription loses or makes up, beside faster-whisper with the same weights: 60 clips with pauses, 20
# minutes of continuous speech, 20 clips in which nobody speaks. From float weights to results/longform.md.
#
# longform.sh [MODEL...]: default whisper-base whisper-tiny.en, folders in WHISPERQ_WHISPER; WHISPERQ_SPEECH holds the
# utterance lists. Done work is not done again: after an interruption, run it again. Further settings:
#   RUNS      where the run folders go, one for each model; default examples/longform/run
#   RESULTS   where the table goes; default examples/longform/results
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
venv="${WHISPERQ_VENV-$here/../../.venv}"
[ -z "$venv" ] || environment "$venv" "[bench]"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
: "${WHISPERQ_WHISPER:?names the folder of whisper-base and whisper-tiny.en}"
: "${WHISPERQ_SPEECH:?names the folder of librispeech_dev.jsonl and others}"
[ $# -gt 0 ] || set -- whisper-base whisper-tiny.en
runs="${RUNS:-$here/run}" results="${RESULTS:-$here/results}"
mkdir -p "$runs" "$results"
runs="$(realpath "$runs")" results="$(realpath "$results")"
speech="$(realpath "$WHISPERQ_SPEECH")" whispers="$(realpath "$WHISPERQ_WHISPER")"
cd "$runs" # where no whisperq.yaml lies
source "$here/../preloaded.sh"

# heard NAME MODEL RUNTIME FORMAT: a file for each recording
heard() {
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

folders=()
for name in "$@"; do
    model="$whispers/$name" run="$runs/$name"
    export WHISPERQ_RUN="$run"
    folders+=("$run")
    mkdir -p "$run"
    [ -d "$run/clips" ] || { python "$here/clips.py" "$run/clips.partial" --speech "$speech" && mv "$run/clips.partial" "$run/clips"; }
    wq calibrate --model "$model" --data "$speech/librispeech_train.jsonl" --batches 16 --batch-size 8
    wq quantize --model "$model" --out "$run/quantized"
    for format in text json srt; do heard "whisperq int8, $format" "$run/quantized" int8 "$format"; done
    heard "whisperq float, json" "$model" float json
    [ -d "$run/faster-whisper" ] || python "$here/../whisper/peer.py" "$model" "$run/faster-whisper"
    for kind in paused continuous sounds; do
        python "$here/peer.py" "$run/faster-whisper" "$run/heard/faster-whisper/$kind" "$run/clips/$kind"/*.flac
    done
done
python "$here/table.py" "${folders[@]}" --out "$results"
