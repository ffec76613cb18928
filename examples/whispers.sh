# Sourced by scripts that measure real Whispers, which set `here` and pass their arguments: the environment, `wq`, and
# runs, results, speech and whispers as absolute folders. The models are the arguments, or base and tiny.en.
# shellcheck shell=bash disable=SC2034,SC2154

_examples="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$_examples/environment.sh"
venv="${WHISPERQ_VENV-$_examples/../.venv}"
[ -z "$venv" ] || environment "$venv" "[bench]"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
: "${WHISPERQ_WHISPER:?names the folder of whisper-base and whisper-tiny.en}"
: "${WHISPERQ_SPEECH:?names the folder of librispeech_dev.jsonl and others}"
models=("$@")
[ $# -gt 0 ] || models=(whisper-base whisper-tiny.en)
runs="${RUNS:-$here/run}" results="${RESULTS:-$here/results}"
mkdir -p "$runs" "$results"
runs="$(realpath "$runs")" results="$(realpath "$results")"
speech="$(realpath "$WHISPERQ_SPEECH")" whispers="$(realpath "$WHISPERQ_WHISPER")"
cd "$runs" || exit # where no whisperq.yaml lies
source "$_examples/preloaded.sh"
