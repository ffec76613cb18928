"""Every command: its settings, the flags that name its inputs, an example, and the call of its step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whisperq import calls
from whisperq import options as o
from whisperq.artifact import Artifact, Finished
from whisperq.report.progress import say
from whisperq.session import Session


@dataclass(frozen=True)
class InputFlag:
    """A flag that names an input; it is no setting of the result, its content is."""

    name: str
    help: str
    many: bool = False
    positional: bool = False
    metavar: str = "FILE"


TEACHER = InputFlag("teacher", "Teacher: Hub id or folder; default: the configuration's, else openai/whisper-large-v2.")
MODEL = InputFlag("model", "Model: a path, a Hub id, or a name in the run folder; default: see the README.")
CALIBRATION = InputFlag("calibration", "Calibration folder; default: calibration/ of the run folder.")
SENSITIVITY = InputFlag("sensitivity", "What --keep-worst goes by; default: sensitivity/ of the run folder.")
COMPARE = InputFlag("compare", "A second model to stand beside the first.")
TRAIN = InputFlag("train", "Training list, folder or parquet; repeatable; default: the configuration's.", many=True)
VALIDATION = InputFlag("validation", "Validation list; repeatable; default: the configuration's.", many=True)
DATA = InputFlag(
    "data",
    "List to look at; repeatable; default: the configuration's validation data, else speech that ships with whisperq.",
    many=True,
)
DEVELOPMENT = InputFlag("dev", "List that stablequant measures on; repeatable; default: --data.", many=True)
LABELLING = InputFlag("model", "Teacher: a path, a Hub id, or a name in the run folder; default: the configuration's.")
UNLABELLED = InputFlag("data", "List to label; repeatable; default: the configuration's training data.", many=True)
TEST = InputFlag("test", "Test set: NAME=LIST, or a configured one's name; repeatable; default: all.", many=True)
FILES = InputFlag("files", "Audio files, of any length; - is standard input.", many=True, positional=True)
HYPOTHESES = InputFlag(
    "hypotheses",
    "Hypotheses files (JSON lines with text and pred_text), FILE or NAME=FILE each, or evaluations by path or name.",
    many=True,
    positional=True,
)
SYSTEM_A = InputFlag(
    "a",
    "What to compare with: an evaluation or score by path or name, or a hypotheses file.",
    positional=True,
    metavar="A",
)
SYSTEM_B = InputFlag("b", "What is compared with it, on the same utterances.", positional=True, metavar="B")
UTTERANCE = InputFlag("utterance", "A recording, or the id of a test utterance; default: the first one.")

RUNS = InputFlag("runs", "Run folders, or folders of run folders.", many=True, positional=True, metavar="RUN")


@dataclass(frozen=True)
class Command:
    """One verb."""

    name: str
    help: str
    example: str
    inputs: tuple[InputFlag, ...]
    call: Callable[[Session, Any], Artifact | str]  # what was made, or text to print
    one_run: bool = True  # belongs to one experiment, in whose folder its configuration is kept

    @property
    def settings(self) -> type:
        return o.SETTINGS[self.name]


COMMANDS = (
    Command(
        "init-student",
        "Build a shallower student with gated attention from a teacher's layers.",
        "whisperq init-student --layers 16",
        (TEACHER,),
        calls.init_student,
    ),
    Command(
        "pseudo-label",
        "Label recordings with a teacher's transcripts, to train a student on.",
        "whisperq pseudo-label --data unlabelled.jsonl --model openai/whisper-large-v2",
        (LABELLING, UNLABELLED),
        calls.pseudo_label,
    ),
    Command(
        "distill",
        "Teach the student: cross-entropy on the references plus 0.8 KL to the frozen teacher.",
        "whisperq distill --max-steps 1000 --batch-size 64 --micro-batch 8",
        (InputFlag("model", "Student folder; default: student/ of the run folder."), TEACHER, TRAIN, VALIDATION),
        calls.distill,
    ),
    Command(
        "calibrate",
        "Estimate the activation ranges of every site from a few batches.",
        "whisperq calibrate --batches 16",
        (MODEL, DATA, DEVELOPMENT),
        calls.calibrate,
    ),
    Command(
        "quantize",
        "Turn weights and activations into static 8-bit integers.",
        "whisperq quantize --recipe gemm",
        (MODEL, CALIBRATION, SENSITIVITY),
        calls.quantize,
    ),
    Command(
        "mixed-precision",
        "Learn how many bits each layer's weights need, with the weights themselves, for a mean of a few bits.",
        "whisperq mixed-precision --target-bits 3.5 --bits 2,3,4,6,8",
        (MODEL, TRAIN, VALIDATION),
        calls.mixed_precision,
    ),
    Command(
        "sensitivity",
        "Measure what each part costs in integers.",
        "whisperq sensitivity",
        (MODEL, DATA),
        calls.sensitivity,
    ),
    Command(
        "eval",
        "Measure word error rate and speed on test sets.",
        "whisperq eval --model distilled --test clean=clean.jsonl",
        (MODEL, TEST),
        calls.eval,
    ),
    Command(
        "score",
        "Count word and character errors of hypotheses again, without a model: ours or anybody's.",
        "whisperq score hyp.jsonl noisy=noisy-hyp.jsonl --normalizer basic",
        (HYPOTHESES,),
        calls.score,
    ),
    Command(
        "compare",
        "Decide whether B makes more word errors than A: paired bootstrap, matched pairs, verdict.",
        "whisperq compare distilled-float gemm-w8a8-int8 --margin 0.3",
        (SYSTEM_A, SYSTEM_B),
        calls.compare,
    ),
    Command(
        "robustness",
        "Look where word errors do not: words in silence, noise and music, loops, empty transcripts, falling times.",
        "whisperq robustness --model gemm-w8a8",
        (MODEL, TEST),
        calls.robustness,
    ),
    Command(
        "export",
        "Write a model as ONNX graphs in the Hub's layout.",
        "whisperq export --model gemm-w8a8",
        (MODEL,),
        calls.export,
    ),
    Command(
        "transcribe",
        "Turn recordings into text, on stdout or in the file (of several srt or vtt: in the folder) that --out names.",
        "whisperq transcribe talk.wav --model gemm-w8a8 --format srt",
        (FILES, MODEL),
        calls.transcribe,
    ),
    Command(
        "outliers",
        "Count six-sigma outliers; kurtosis and infinity norm of a model's tensors.",
        "whisperq outliers --layer dec.1.out_proj",
        (MODEL, COMPARE, TEST),
        calls.outliers,
    ),
    Command(
        "plot-attention",
        "Draw what an attention head looks at.",
        "whisperq plot-attention --layer dec.1 --head 11",
        (MODEL, UTTERANCE, TEST),
        calls.plot_attention,
    ),
    Command(
        "report",
        "Gather run folders into one page: tables, figures, and where every number comes from.",
        "whisperq report run/none run/headwise --out report",
        (RUNS,),
        calls.report,
        one_run=False,
    ),
)


def perform(command: Command, session: Session, settings: Any) -> Artifact | str:
    """The command's call; what this very call has made before is given back as it is."""
    try:
        return command.call(session, settings)
    except Finished as finished:
        say(f"{finished.artifact.path} is finished already, by this very command; nothing was done")
        return finished.artifact
