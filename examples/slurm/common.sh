# shellcheck shell=bash
# Sourced by every student's job, after its set -euo pipefail: whom the job is about, and how whisperq is started.

# A command, `whisperq` where it is simply on the PATH. In a container of the Dockerfile's image:
#
#     docker build -t whisperq . && apptainer build whisperq.sif docker-daemon:whisperq:latest
#     export WHISPERQ="apptainer exec --nv --bind /data '$PWD/whisperq.sif' whisperq"
#
# with quotes, as a shell knows them, around what holds a space (a program's path alone needs none), and a --bind for
# each place of data and models: by itself apptainer shows a container the home, /tmp and the run folders.
# PYTHONNOUSERSITE=1 keeps Python packages that lie in the home out of it.
whisperq=("${WHISPERQ:=whisperq}")
if ! command -v "$WHISPERQ" >/dev/null; then
    words=$(xargs -n 1 printf '%s\n' <<<"$WHISPERQ") # it knows quotes, and expands nothing
    mapfile -t whisperq <<<"$words"
fi

# An array has one student for each index.
read -ra names <<<"$STUDENTS"
student=${names[${SLURM_ARRAY_TASK_ID:-0}]}
export WHISPERQ_RUN=$RUNS/$student

# srun does not take this from sbatch by itself (SLURM 22.05 and newer); and a requeued job may land on a node
# with more cores, while equal bits need equally many threads.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# Where a job's processes find each other; jobs may share a node.
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1} # who share a node's cores
export MASTER_ADDR MASTER_PORT LOCAL_WORLD_SIZE

# run COMMAND...: whisperq, in every task of the job. Its exit code decides what becomes of those that wait for us.
run() {
    local code=0
    echo "$(date -Iseconds) $(hostname), start $((${SLURM_RESTART_COUNT:-0} + 1)) of $student: whisperq $*"
    # Not torchrun, which makes 1 of every exit code and keeps USR2 to itself. The signal goes to each task's own
    # process, hence `exec`. When a task has ended, the others have ten minutes: a broken one would hang them all. But 75
    # of the first to end must not end the one that still saves, as it would where a cluster sets KillOnBadExit.
    # Most clusters bind a task to its own cores, which it then shares with nobody (nproc obeys OMP_NUM_THREADS, too).
    # shellcheck disable=SC2016  # each task's own variables
    srun --kill-on-bad-exit=0 --wait=600 bash -c '
        [ "$(env -u OMP_NUM_THREADS nproc)" -gt "${SLURM_CPUS_PER_TASK:-1}" ] || LOCAL_WORLD_SIZE=1
        RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' \
        task "${whisperq[@]}" "$@" || code=$?
    [ $code != 75 ] || requeue
    return $code
}

# Checkpointed: back on the queue. SLURM may end this shell at once, so that nothing is left to do after it; until
# then, and on a cluster that allows no requeueing, exit code 75 keeps the next step from starting on half a model.
# scancel's TERM makes a process checkpoint too, but ends this shell first (no trap!): what is cancelled stays so.
requeue() {
    local job=$SLURM_JOB_ID
    # An array's own id is also the id of one of its elements, and would requeue them all.
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    scontrol requeue "$job" || echo "not requeued; submit.sh goes on from the checkpoint" >&2
}
