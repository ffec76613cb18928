#!/usr/bin/env bash
#SBATCH --job-name=eval
#SBATCH --time=24:00:00 --gpus-per-node=1 --cpus-per-task=8 --mem=32G
#SBATCH --signal=USR2@120 --requeue --open-mode=append
# As in distill.sh: before its time is over it keeps what it has transcribed, exits with 75 and is put back on the
# queue. Begun again, it skips the evaluations that it had finished, and goes on in the middle of the next.
set -euo pipefail
source "$SCRIPTS/common.sh"
run eval --model distilled
run eval --model paper-w8a8
run eval --model gemm-w8a8
