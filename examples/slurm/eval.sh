#!/usr/bin/env bash
#SBATCH --job-name=eval
#SBATCH --time=24:00:00 --gpus-per-node=1 --cpus-per-task=8 --mem=32G
#SBATCH --requeue --open-mode=append
# Begun again, it skips the evaluations that it had finished.
set -euo pipefail
source "$SCRIPTS/common.sh"
run eval --model distilled
run eval --model paper-w8a8
run eval --model gemm-w8a8
