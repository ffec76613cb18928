#!/usr/bin/env bash
#SBATCH --job-name=distill
#SBATCH --time=24:00:00 --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=8 --mem=64G
#SBATCH --signal=USR2@120 --requeue --open-mode=append
# 120 seconds before its time is over every process receives USR2, saves a checkpoint and exits with 75: the job goes
# back on the queue, and the same command goes on from there. Not `B:USR2`: that is for this shell alone.
# GPUs by node, not by task: each process has to see its neighbours'.
set -euo pipefail
source "$SCRIPTS/common.sh"
run distill
