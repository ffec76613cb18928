#!/usr/bin/env bash
# Gated students of a real Whisper: does a gate lower their outliers, and does that save word errors in INT8? From the
# weights of whisper-tiny.en and real speech to one report: pseudo-labels by the teacher; students of several depths and
# gates, distilled one after the other; of each its words and outputs in float and in INT8, and its outliers.
#
# run.sh takes no arguments. WHISPERQ_WHISPER names the folder of whisper-tiny.en, WHISPERQ_SPEECH that of the lists. Done
# work is not done again: after an interruption of any kind, run it again; trainings go on from their newest checkpoint.
# A command that outlived a killed script holds a lock: the script ends with 75 and says whose until that one has ended.
# The students are ordered so that the first two answer the question once, and each further pair makes it surer.
# Settings, with their defaults:
#   RUNS        where the run folders go; examples/students/run. The teacher's cache and the labels lie there too
#   RESULTS     where tables and figures go; examples/students/results
#   TEACHER     a folder in WHISPERQ_WHISPER; whisper-tiny.en
#   STUDENTS    "4+2-none-1 4+4-none-1-kl ...": encoder layers + decoder layers - gate - seed, and how it is trained where
#               that is not by cross-entropy and KL: -kl by KL alone, -range by KL and the penalty on ranges, both for
#               KEPT_STEPS and judged at the last one. Default: made of DEPTHS, SEEDS and KEPT
#   DEPTHS      "4+2 2+2";  SEEDS "1 2";  KEPT "4+4", which keeps all layers of the teacher;  KEPT_STEPS 300
#   KEPT_RATE   of learning, where all layers are kept; 3e-5. Such a student begins where KL is zero, and the small
#               gradients there, which Adam scales up, take it away from that at RATE
#   RANGE       weight of the penalty on ranges; 0.01
#   STEPS       of training, of 16 windows each; 1000.  EVAL_EVERY 100, SAVE_EVERY 25, WARMUP 100, RATE 3e-4, MICRO 8
#   DISTILL     further options of whisperq distill
#   SYSTEMS     "plain gemm dynamic paper": what is quantized; plain: as gemm, without what whisperq does about outliers
#   LEFT        "attention fc2 sums": under the paper's recipe, KL with each of these left in float; "" for none
#   ITSELF      yes: whether the teacher is measured, too
#   LIMIT       first N utterances of each list that is trained on; TEST_LIMIT of each test list; all
#   KEPT_OUT, VALIDATION  utterances that are drawn for tests (150, of LJ Speech) and to choose the best step (48)
#   KL_LIMIT, OUTLIER_LIMIT   utterances of each list for KL and for outliers; 24
#   LOOP_LIMIT  of tests: an utterance ends where its last words came so many times in a row; 6
#   BATCHES     of calibration, eight utterances each; 16
#   WHISPERQ_VENV   the virtual environment to make or use; set but empty: the environment as it is
# shellcheck disable=SC2154 # runs, speech and whispers come from whispers.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
set --
source "$here/../whispers.sh"
teacher="$whispers/${TEACHER:-whisper-tiny.en}"
lists="$runs/lists" labels="$runs/labels" cache="$runs/teacher-cache"
kl_limit="${KL_LIMIT:-24}"

limited=()
[ -z "${LIMIT:-}" ] || limited=(--limit "$LIMIT")
python "$here/lists.py" "$speech" "$lists" --kept-out "${KEPT_OUT:-150}" --validation "${VALIDATION:-48}" "${limited[@]}"
sets=(--test "librispeech=$speech/librispeech_dev.jsonl" --test "ljspeech=$lists/ljspeech_kept_out.jsonl")
data=(--data "$speech/librispeech_dev.jsonl" --data "$lists/ljspeech_kept_out.jsonl")

students() {
    local depth seed
    if [ -n "${STUDENTS:-}" ]; then
        printf '%s\n' $STUDENTS # words: several students
        return
    fi
    local seeds
    read -r -a seeds <<<"${SEEDS:-1 2}"
    for seed in "${seeds[@]}"; do
        for depth in ${DEPTHS:-4+2 2+2}; do
            printf '%s\n' "$depth-none-$seed" "$depth-headwise-$seed"
        done
        [ "$seed" = "${seeds[0]}" ] || continue
        for depth in ${KEPT-4+4}; do
            printf '%s\n' "$depth-"{none,headwise}"-$seed-"{kl,range}
        done
    done
    for seed in ${SEEDS:-1 2}; do
        for depth in ${DEPTHS:-4+2 2+2}; do echo "$depth-elementwise-$seed"; done
    done
}

# NAME -> RUNTIME FLAGS: how `eval` runs it, and what `quantize` is told. No kernel computes the paper's recipe.
system() {
    case $1 in
        plain) echo int8 --smooth none --massive none ;;
        gemm) echo int8 ;;
        dynamic) echo int8 --activations dynamic ;;
        paper) echo emulated --recipe paper ;;
        *) echo "SYSTEMS: $1 is none of plain, gemm, dynamic and paper" >&2 && return 2 ;;
    esac
}

# NAME -> what --exclude leaves in float: layers with their weights, or sites.
sites() {
    case $1 in
        attention) echo "enc.*.out_proj dec.*.out_proj dec.*.cross.out_proj" ;;
        fc2) echo "enc.*.fc2:input enc.*.fc2 dec.*.fc2:input dec.*.fc2" ;;
        sums) echo "enc.*.attn_sum enc.*.mlp_sum dec.*.attn_sum dec.*.cross.attn_sum dec.*.mlp_sum" ;;
        *) echo "LEFT: $1 is none of attention, fc2 and sums" >&2 && return 2 ;;
    esac
}

# evaluate NAME MODEL RUNTIME
evaluate() {
    local limit=()
    [ -z "${TEST_LIMIT:-}" ] || limit=(--limit "$TEST_LIMIT")
    wq eval --model "$2" "${sets[@]}" --normalizer english --runtime "$3" "${limit[@]}" \
        --loop-limit "${LOOP_LIMIT:-6}" --out "$WHISPERQ_RUN/eval/$1"
}

# measure MODEL: in float and INT8, and its outliers where the paper looks and where a pretrained Whisper has them.
measure() {
    local name line
    evaluate float "$1" float
    wq calibrate --model "$1" --data "$lists/librispeech_train.jsonl" --batches "${BATCHES:-16}" --batch-size 8
    for name in ${SYSTEMS:-plain gemm dynamic paper}; do
        read -r -a line <<<"$(system "$name")"
        wq quantize --model "$1" "${line[@]:1}" --out "$WHISPERQ_RUN/quantized/$name"
        evaluate "$name" "$WHISPERQ_RUN/quantized/$name" "${line[0]}"
        wq compare "$WHISPERQ_RUN/eval/float" "$WHISPERQ_RUN/eval/$name" --common \
            --out "$WHISPERQ_RUN/comparisons/$name-vs-float"
        diverge "$name"
    done
    for name in ${LEFT-attention fc2 sums}; do
        read -r -a line <<<"$(sites "$name")"
        wq quantize --model "$1" --recipe paper "${line[@]/#/--exclude=}" --out "$WHISPERQ_RUN/quantized/without-$name"
        diverge "without-$name"
    done
    outliers "$1" after
}

# diverge NAME: KL of a quantized model from float
diverge() {
    wq sensitivity --by model --model "$WHISPERQ_RUN/quantized/$1" "${data[@]}" --limit "$kl_limit" \
        --out "$WHISPERQ_RUN/sensitivity/$1"
}

# outliers MODEL NAME: with the paper's two figures
outliers() {
    wq outliers --model "$1" "${sets[@]}" --limit "${OUTLIER_LIMIT:-24}" --out "$WHISPERQ_RUN/outliers/$2/attention" \
        --layer "enc.*.out_proj,dec.*.out_proj,dec.*.cross.out_proj"
    wq outliers --model "$1" "${sets[@]}" --limit "${OUTLIER_LIMIT:-24}" --out "$WHISPERQ_RUN/outliers/$2/mlp" \
        --layer "enc.*.fc2:input,enc.*.mlp_sum,dec.*.fc2:input,dec.*.mlp_sum"
    wq plot-attention --model "$1" "${sets[@]:2:2}" --layer dec.-1 --head all --out "$WHISPERQ_RUN/attention/$2"
    python "$here/spread.py" "$1" "$speech/librispeech_dev.jsonl" "$lists/ljspeech_kept_out.jsonl" \
        --limit "${OUTLIER_LIMIT:-24}" --out "$WHISPERQ_RUN/outliers/$2/spread.json"
}

# student NAME: from the teacher's layers to its numbers.
student() {
    local depth gate seed way
    local options=(--max-steps "${STEPS:-1000}" --eval-every "${EVAL_EVERY:-100}" --learning-rate "${RATE:-3e-4}")
    local steps="${KEPT_STEPS:-300}"
    local kept=(--max-steps "$steps" --eval-every "$steps" --learning-rate "${KEPT_RATE:-3e-5}" --ce-weight 0)
    IFS=- read -r depth gate seed way <<<"$1"
    case $way in
        "") ;;
        kl) options=("${kept[@]}") ;;
        range) options=("${kept[@]}" --range-weight "${RANGE:-0.01}") ;;
        *) echo "STUDENTS: $1 ends in none of -kl and -range" >&2 && return 2 ;;
    esac
    export WHISPERQ_RUN="$runs/students/$depth-$gate${way:+-$way}/seed-$seed"
    mkdir -p "$WHISPERQ_RUN"
    wq init-student --teacher "$teacher" --layers "${depth%+*}" --decoder-layers "${depth#*+}" --gate "$gate" --seed "$seed"
    outliers "$WHISPERQ_RUN/student" before
    # shellcheck disable=SC2086 # DISTILL: several words
    wq distill --teacher "$teacher" --train "$labels/utterances.jsonl" --validation "$lists/validation.jsonl" --seed "$seed" \
        "${options[@]}" --batch-size 16 --micro-batch "${MICRO:-8}" --warmup-steps "${WARMUP:-100}" --beta1 0.9 \
        --save-every "${SAVE_EVERY:-25}" --keep 1 --teacher-cache "$cache" ${DISTILL:-}
    measure "$WHISPERQ_RUN/distilled"
}

# What a pretrained Whisper pays, beside its students.
teacher_itself() {
    [ "${ITSELF:-yes}" = yes ] || return 0
    export WHISPERQ_RUN="$runs/teacher"
    mkdir -p "$WHISPERQ_RUN"
    measure "$teacher"
}

report() {
    export WHISPERQ_RUN="$runs/report"
    wq report "$runs/students" "$runs/teacher" --force --no-verify --out "$runs/report" --title "Gated students of Whisper"
    python "$here/table.py" "$runs" --out "$results"
}

main() {
    local name done=0
    export WHISPERQ_RUN="$runs/labelling"
    mkdir -p "$WHISPERQ_RUN" "$runs/teacher"
    wq pseudo-label --model "$teacher" --data "$lists/librispeech_train.jsonl" --data "$lists/librispeech_unlabelled.jsonl" \
        --data "$lists/ljspeech_train.jsonl" --normalizer english --out "$labels"
    for name in $(students); do
        student "$name"
        done=$((done + 1))
        [ "$done" -ne 2 ] || teacher_itself
        report
    done
    [ "$done" -ge 2 ] || { teacher_itself && report; }
}

main # read to its end by now, so that a newer script may take this one's place while it runs
exit
