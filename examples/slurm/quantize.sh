#!/usr/bin/env bash
#SBATCH --job-name=quantize
#SBATCH --time=01:00:00 --cpus-per-task=4 --mem=32G
set -euo pipefail
source "$SCRIPTS/common.sh"
run quantize --recipe paper
run quantize --recipe gemm
