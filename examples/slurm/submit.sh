#!/usr/bin/env bash
# submit.sh CONFIG RUNS [STUDENT...]: from a teacher to a table of its students, every step a SLURM job of its own.
#
#     bash examples/slurm/submit.sh examples/paper/whisperq.yaml runs    # the paper's six students
#     bash examples/slurm/submit.sh whisperq.yaml runs 16-headwise       # one: 16 encoder layers, headwise gates
#
# A student is LAYERS-GATE; its run folder is RUNS/LAYERS-GATE. One student's jobs each wait for the one before
# (afterok). Of several, each step is an array with an element for each student, which waits for the same
# student's element of the step before (aftercorr): one that fails stops nobody else's. The table needs them all.
#
# To go on after a failure, give the same command again when none of these jobs is left: what is finished exits
# with 0 at once, and a distillation goes on from its newest checkpoint. A changed CONFIG counts once the copies that
# the first jobs left, RUNS/*/whisperq.yaml, are removed.
# Read from the environment: WHISPERQ (see common.sh); GPUS, of distill, default 1; sbatch's own, such as
# SBATCH_ACCOUNT and SBATCH_PARTITION.
set -euo pipefail
: "${2:?usage: submit.sh CONFIG RUNS [STUDENT...]}"
students=("${@:3}")
for student in "${students[@]}"; do
    [[ $student =~ ^[0-9]+-[a-z-]+$ ]] && continue
    echo "submit.sh: a student is LAYERS-GATE, such as 16-headwise, not '$student'" >&2
    exit 2
done
CONFIG=$(realpath -e "$1")
mkdir -p "$2/logs"
RUNS=$(realpath "$2")
[ ${#students[@]} -gt 0 ] || students=(24-none 24-headwise 16-none 16-headwise 8-none 8-headwise)
STUDENTS=${students[*]}
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) # SLURM runs a copy of each script: the job cannot ask
export CONFIG RUNS STUDENTS SCRIPTS

after=afterok log=%x-%j array=()
if [ ${#students[@]} -gt 1 ]; then
    after=aftercorr log=%x-%A-%a array=(--array="0-$((${#students[@]} - 1))")
fi

# What is queued when a later submission fails, or somebody interrupts, would run up to a gap: it is taken back.
queued=()
take_back() {
    [ ${#queued[@]} -eq 0 ] || echo "not all was queued; taking back ${queued[*]}" >&2
    [ ${#queued[@]} -eq 0 ] || scancel "${queued[@]}"
}
trap take_back EXIT

# submit STEP [sbatch's flags]: `id` becomes the job's. In RUNS, where no other whisperq.yaml lies, and from which the
# log's place counts: of a whole path SLURM would expand each %. A job whose dependency failed is cancelled; otherwise
# it would wait for ever.
submit() {
    id=$(sbatch --parsable --export=ALL --chdir="$RUNS" --output="logs/$log.txt" --kill-on-invalid-dep=yes \
        "${@:2}" "$SCRIPTS/$1.sh")
    id=${id%%;*} # what follows is a federation's cluster
    queued+=("$id")
}

# each STEP [sbatch's flags]: for each student
each() { submit "$@" "${array[@]}"; }

gpus=(--ntasks-per-node="${GPUS:-1}" --gpus-per-node="${GPUS:-1}")
each init-student
student=$id
each distill "${gpus[@]}" --dependency="$after:$student"
distilled=$id
each calibrate --dependency="$after:$distilled"
calibrated=$id
each quantize --dependency="$after:$calibrated"
quantized=$id
each eval --dependency="$after:$quantized"
evaluated=$id
each outliers --dependency="$after:$distilled"
counted=$id
each plot-attention --dependency="$after:$distilled"
drawn=$id
log=%x-%j
submit table --dependency="afterok:$evaluated:$counted"
trap - EXIT

echo "init-student $student, distill $distilled, calibrate $calibrated, quantize $quantized, eval $evaluated,"
echo "outliers $counted, plot-attention $drawn; last job $id writes $RUNS/table.md"
