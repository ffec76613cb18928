#!/usr/bin/env bash
#SBATCH --job-name=init-student
#SBATCH --time=00:30:00 --cpus-per-task=4 --mem=32G
# The teacher's layers and open gates make a student. Where nodes have no internet, fetch the teacher before.
set -euo pipefail
source "$SCRIPTS/common.sh"
run init-student --config "$CONFIG" --layers "${student%%-*}" --gate "${student#*-}"
