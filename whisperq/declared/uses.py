"""Steps that use a model or look into it, and the report."""

from whisperq.declaration import FILES, MODEL, QUANTIZED, TEST, Declaration, InputFlag
from whisperq.options import ExportConfig, OutliersConfig, PlotAttentionConfig, ReportConfig, TranscribeConfig

COMPARE = InputFlag("compare", "A second model to stand beside the first.")
UTTERANCE = InputFlag("utterance", "A recording, or the id of a test utterance; default: the first one.")
RUNS = InputFlag("runs", "Run folders, or folders of run folders.", many=True, positional=True, metavar="RUN")

DECLARED = (
    Declaration(
        "export",
        "Write a model as ONNX graphs in the Hub's layout.",
        "whisperq export --model gemm-w8a8",
        (QUANTIZED,),
        ExportConfig,
        compared=(),  # nothing but the model decides the graphs
    ),
    Declaration(
        "transcribe",
        "Turn recordings into text, on stdout or in the file (of several srt or vtt: in the folder) that --out names.",
        "whisperq transcribe talk.wav --model gemm-w8a8 --format srt",
        (FILES, QUANTIZED),
        TranscribeConfig,
        named=("files",),
        text=True,
        shared={
            "out": "The transcripts' file, or the folder for a file of each recording; default: standard output.",
            "force": "Replace files that are there.",
            "json": "The same as --format json.",
        },
    ),
    Declaration(
        "outliers",
        "Count six-sigma outliers; kurtosis and infinity norm of a model's tensors.",
        "whisperq outliers --layer dec.1.out_proj",
        (MODEL, COMPARE, TEST),
        OutliersConfig,
    ),
    Declaration(
        "plot-attention",
        "Draw what an attention head looks at.",
        "whisperq plot-attention --layer dec.1 --head 11",
        (MODEL, UTTERANCE, TEST),
        PlotAttentionConfig,
    ),
    Declaration(
        "report",
        "Gather run folders into one page: tables, figures, and where every number comes from.",
        "whisperq report run/none run/headwise --out report",
        (RUNS,),
        ReportConfig,
        named=("runs",),
        shared={"out": "Write the report here instead of in report/ of the working folder."},
        one_run=False,
        gathers=True,
    ),
)
