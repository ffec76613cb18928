#!/usr/bin/env bash
# All tests in a virtual environment of their own. WHISPERQ_SPEECH names a folder with real human speech,
# WHISPERQ_WHISPER one with OpenAI's whisper-base and whisper-tiny.en as transformers saves them (config.json,
# model.safetensors, tokenizer and so on); without them the tests on them skip, as those under SLURM do where it is not
# installed. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/environment.sh
environment "${WHISPERQ_VENV:-$PWD/.venv-tests}" "[test]"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Two processes, each with whole files and one thread: a second thread of each would wait for a core more than it works.
export OMP_NUM_THREADS=1
python -m pytest -n "${WHISPERQ_TEST_PROCESSES:-2}" --dist loadfile "$@"
