"""Steps that count a model's errors and compare them."""

from whisperq.declaration import QUANTIZED, TEST, Declaration, InputFlag
from whisperq.options import CompareConfig, EvalConfig, RobustnessConfig, ScoreConfig

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

DECLARED = (
    Declaration(
        "eval",
        "Measure word error rate and speed on test sets.",
        "whisperq eval --model distilled --test clean=clean.jsonl",
        (QUANTIZED, TEST),
        EvalConfig,
        resumes=True,
    ),
    Declaration(
        "score",
        "Count word and character errors of hypotheses again, without a model: ours or anybody's.",
        "whisperq score hyp.jsonl noisy=noisy-hyp.jsonl --normalizer basic",
        (HYPOTHESES,),
        ScoreConfig,
        named=("files",),
    ),
    Declaration(
        "compare",
        "Decide whether B makes more word errors than A: paired bootstrap, matched pairs, verdict.",
        "whisperq compare distilled-float gemm-w8a8-int8 --margin 0.3",
        (SYSTEM_A, SYSTEM_B),
        CompareConfig,
        named=("a", "b"),
        left_to_inputs=("scorer",),
    ),
    Declaration(
        "robustness",
        "Look where word errors do not: words in silence, noise and music, loops, empty transcripts, falling times.",
        "whisperq robustness --model gemm-w8a8",
        (QUANTIZED, TEST),
        RobustnessConfig,
    ),
)
