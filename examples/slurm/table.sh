#!/usr/bin/env bash
#SBATCH --job-name=table
#SBATCH --time=00:05:00 --mem=1G
set -euo pipefail
python3 "$SCRIPTS/table.py" "$RUNS" >"$RUNS/table.md"
cat "$RUNS/table.md"
