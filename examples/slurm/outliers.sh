#!/usr/bin/env bash
#SBATCH --job-name=outliers
#SBATCH --time=08:00:00 --gpus-per-node=1 --cpus-per-task=8 --mem=32G
#SBATCH --requeue --open-mode=append
set -euo pipefail
source "$SCRIPTS/common.sh"
run outliers
