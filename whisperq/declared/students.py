"""Steps that make a student and teach it."""

from whisperq.declaration import TEACHER, TRAIN, VALIDATION, Declaration, InputFlag
from whisperq.training_options import DistillConfig, InitStudentConfig, PseudoLabelConfig

LABELLING = InputFlag("model", "Teacher: a path, a Hub id, or a name in the run folder; default: the configuration's.")
UNLABELLED = InputFlag("data", "List to label; repeatable; default: the configuration's training data.", many=True)
STUDENT = InputFlag("model", "Student folder; default: student/ of the run folder.")

DECLARED = (
    Declaration(
        "init-student",
        "Build a shallower student with gated attention from a teacher's layers.",
        "whisperq init-student --layers 16",
        (TEACHER,),
        InitStudentConfig,
        place="student",
    ),
    Declaration(
        "pseudo-label",
        "Label recordings with a teacher's transcripts, to train a student on.",
        "whisperq pseudo-label --data unlabelled.jsonl --model openai/whisper-large-v2",
        (LABELLING, UNLABELLED),
        PseudoLabelConfig,
        resumes=True,
    ),
    Declaration(
        "distill",
        "Teach the student: cross-entropy on the references plus 0.8 KL to the frozen teacher.",
        "whisperq distill --max-steps 1000 --batch-size 64 --micro-batch 8",
        (STUDENT, TEACHER, TRAIN, VALIDATION),
        DistillConfig,
        resumes=True,
        checkpoints=True,
    ),
)
