#!/usr/bin/env bash
# The gated student of quickstart.sh or real.sh, INT8, run by every runtime: one table of word error rates and speed.
# runtimes.sh [RUNS]: the run folders that the other script left; default examples/digits/run/quickstart.
# Nothing else should run beside it: it measures time.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../environment.sh"
environment "${WHISPERQ_VENV:-$here/../../.venv}" "[onnx,openvino]"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
runs="$(realpath "${1:-$here/run/quickstart}")"
export WHISPERQ_RUN="$runs/headwise"
cd "$runs"
for runtime in emulated int8 onnx openvino; do
    whisperq eval --model gemm-w8a8 --runtime "$runtime"
done
whisperq eval --model gemm-w8a8 --runtime int8 --attention-dtype float32 --out "$WHISPERQ_RUN/eval/gemm-w8a8-int8-float32"
python "$here/runtimes.py" "$runs"
