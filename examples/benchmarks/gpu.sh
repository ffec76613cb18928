#!/usr/bin/env bash
# What can only be known on a GPU, in at most six minutes on one: do the tests that need it pass, does every runtime
# compute there what the CPU computes, how fast are int8 and training beside PyTorch and transformers, and what does
# training wait for. gpu.sh OUT leaves OUT/gpu.json and its tables in OUT/gpu.md, rewritten after each part.
#
# Needs torch and transformers; a part that needs a package more, which is not installed, is skipped and says so. Each
# part is a process with a time limit of its own (gpu.py says which), and what it had measured is kept where it is
# killed. Done work is not done again: run it again for what failed or timed out, or name a new folder. It ends with 1
# where a part failed or timed out, with 2 where a setting makes no sense. Settings, with their defaults:
#   PARTS    "tests agreement int8 training feeding distillation", in this order whatever is chosen
#   DEVICE   cuda where there is one, else cpu
#   SIZE     full on a GPU; smallest on a CPU, a minute on one core: that shows that the script works and measures nothing
#   LIMITS   seconds of some parts, such as "int8=200 training=300"; what a part leaves over is the next one's
#   COMPILE  yes on a GPU: compiled contenders too; no on a CPU, where compiling takes most of the time
#   WORK     where models, recordings and logs go, several GB; default: a folder in TMPDIR, shared with int8.py
#   WHISPERQ_COMMIT   what the record calls the code where git does not know
#   PYTHON   the interpreter; python3
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${1:?usage: gpu.sh OUT, the folder of the results}"
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" "$here/gpu.py" "$1"
