#!/usr/bin/env bash
#SBATCH --job-name=plot-attention
#SBATCH --time=00:30:00 --cpus-per-task=4 --mem=16G
set -euo pipefail
source "$SCRIPTS/common.sh"
run plot-attention --layer dec.-1 --head all
