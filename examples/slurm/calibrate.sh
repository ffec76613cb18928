#!/usr/bin/env bash
#SBATCH --job-name=calibrate
#SBATCH --time=01:00:00 --gpus-per-node=1 --cpus-per-task=4 --mem=32G
set -euo pipefail
source "$SCRIPTS/common.sh"
run calibrate
