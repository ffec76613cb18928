"""What each command can be told: frozen dataclasses, the paper's values as defaults.

One field is one flag: its default and its help line stand here and nowhere else.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from whisperq.checks import Settings
from whisperq.registered import OBSERVERS
from whisperq.runtimes import RUNTIMES
from whisperq.settings import (
    Measure,
    NormalizerName,
    Padding,
    loop_limit_option,
    option,
    padding_option,
    tokens_per_second_option,
)

if TYPE_CHECKING:
    Observer: TypeAlias = str
    RuntimeName: TypeAlias = str
else:
    Observer, RuntimeName = Literal[OBSERVERS], Literal[tuple(RUNTIMES)]  # choices of those that there are
Scorer = Literal["jiwer", "sclite"]


@dataclass(frozen=True)
class CalibrateConfig(Settings):
    batches: int = option(16, "Batches of calibration data.", low=1)
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    observer: tuple[Observer, ...] = option(
        ("ema",),
        f"Range estimators, the one to use first: {', '.join(OBSERVERS)}; repeatable, commas join.",
    )
    momentum: float = option(0.9, "EMA: weight of the old value; the first batch initialises.", low=0, high=0.999999)
    percentile: float = option(99.999, "Percentile observer: percent of the mass that is kept.", low=50, high=100)
    activation_bits: tuple[int, ...] = option(
        (8,), "Bits that mse and stablequant optimise for; repeatable, commas join.", low=4, high=8
    )
    metric: Literal["wer", "snr"] = option("wer", "stablequant: WER, or signal-to-noise ratio of logits, decides.")
    threshold: float = option(0.25, "stablequant: points of WER that a layer may cost before it is searched.", low=0)
    snr_threshold: float = option(
        0.5, "stablequant by snr: dB that the layers which are not searched may cost together.", low=0
    )
    dev_limit: int | None = option(None, "stablequant: first N utterances of each development list only.", low=1)
    sites: str | None = option(None, "Sites to observe, such as enc.*.fc1,dec.1.out_proj; default: all.")
    channel_maxima: bool = option(
        True, "Keep each channel's ends and sample rows of all that products take in: quantize searches with them.",
        off="no-channel-maxima",
    )  # fmt: skip
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class QuantizeConfig(Settings):
    recipe: Literal["gemm", "paper"] = option("gemm", "gemm: what integer kernels take in; paper: all sites of blocks.")
    sites: Literal["linear", "blocks", "all"] | None = option(
        None,
        "paper: which activations, linear layers' inputs in the blocks, all of the blocks, or all of the model, then "
        "with every weight; default: blocks.",
    )
    exception: Literal["attention", "mlp", "none"] | None = option(
        None, "paper: which output of the last encoder layer stays float, with enc.norm; default: attention."
    )
    weight_bits: int = option(8, "Bits of the weights, 2 to 8.", low=2, high=8)
    group: int | None = option(None, "Weights that share a scale, such as 64; default: an output channel's.", low=8)
    weight_observer: Literal["minmax", "mse"] = option(
        "minmax", "Scales of the weights: minmax: they span all weights; mse: least squared error."
    )
    activations: Literal["static", "dynamic", "none"] = option(
        "static", "Ranges of the activations: calibrated, each token's own, or none: weights alone are quantized."
    )
    activation_bits: int = option(8, "Bits of the activations, 4 to 8.", low=4, high=8)
    observer: Observer | None = option(
        None,
        "Whose ranges, of the calibration's observers; default: the first, but minmax for ema where outliers are.",
    )
    per_channel: bool | None = option(
        None,
        "One weight scale for each output channel, or for the tensor; default: gemm per channel, paper per tensor.",
        off="per-tensor",
    )
    exclude: tuple[str, ...] = option((), "Keep these sites in float, such as enc.0.* or dec.1.fc1:weight; repeatable.")
    keep_worst: int | None = option(None, "Keep the N parts in float that whisperq sensitivity found worst.", low=1)
    smooth: str = option(
        "auto",
        "auto: scale channels where that lowers the layers' output error; SmoothQuant's alpha, such as 0.5; none.",
    )
    massive: str | None = option(
        None, "Sites on 16 bits: auto: the massive channels found; none; or sites; default: auto, of paper none."
    )
    budget: float = option(5.0, "Percent of integer products that --massive auto may add.", low=0, high=100)
    encoder_only: bool = option(False, "Quantize the encoder alone.")
    cross_cache: Literal["int8", "float"] | None = option(
        None, "Keys and values of cross-attention while decoding; default: int8 of static gemm models, else float."
    )


@dataclass(frozen=True)
class SensitivityConfig(Settings):
    by: Literal["block", "site", "model"] = option(
        "block", "Parts: attention and feed-forward blocks, or sites and weights; model: the whole alone, no parts."
    )
    wer: bool = option(False, "Word error rates of greedy decoding too: slow.", off="")
    worst: int = option(3, "Parts that the --exclude line names.", low=1)
    limit: int = option(32, "First N utterances of each list only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class Execution(Settings):
    """How a model is run."""

    runtime: RuntimeName | None = option(
        None, "What runs the model; default: float, of a quantized model emulated, of an exported one onnx."
    )
    attention_dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "int8, openvino: number format of attention's products; auto: bfloat16 where the CPU multiplies it."
    )
    reduce_range: bool | None = option(
        None,
        "int8: activations on 7 bits, so that sums cannot saturate; default: where no kernel is exact with 8.",
    )
    padding: Padding = padding_option()


@dataclass(frozen=True)
class EvalConfig(Execution):
    batch_size: int = option(16, "Utterances decoded together.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of every set; default: the one that the set names, else english."
    )
    scorer: Scorer = option("jiwer", "Alignment of words: jiwer's fewest errors, or NIST sclite's costs.")
    measure: Measure | None = option(
        None, "Errors of words or of characters; default: cer of sets whose language writes no spaces, else wer."
    )
    beams: int = option(
        1, "Hypotheses that are followed at a time, as in generate(num_beams=N); 1: greedy.", low=1, high=32
    )
    loop_limit: int | None = loop_limit_option()
    tokens_per_second: float | None = tokens_per_second_option()
    temperature_fallback: bool = option(False, "Decode loops and guesses again, at temperatures of 0.2 to 1.")
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class RobustnessConfig(Execution):
    runtime: RuntimeName | None = option(
        None, "What runs the quantized model; default: int8, of a paper one emulated. The other runs in float."
    )
    sounds: int = option(20, "Recordings of each kind without speech: silence, noise and music.", low=1, high=500)
    limit: int = option(30, "First N utterances of each test set only.", low=1)
    batch_size: int = option(8, "Pieces of audio decoded together.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class ScoreConfig(Settings):
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of every set; default: that of the configured set of its name, else english."
    )
    scorer: Scorer = option("jiwer", "Alignment of words: jiwer's fewest errors, or NIST sclite's costs.")
    measure: Measure | None = option(
        None, "Errors of words or of characters; default: cer of sets whose language writes no spaces, else wer."
    )
    spelling: str | None = option(
        None,
        "A model's normalizer.json, for english; default: what the hypotheses' evaluation keeps, else OpenAI's map.",
    )


@dataclass(frozen=True)
class CompareConfig(Settings):
    margin: float = option(0.3, "Points of WER (or CER) by which B may be worse and still be no worse.", low=0)
    blocks: Literal["auto", "speaker", "recording", "utterance"] = option(
        "auto", "What is resampled together; auto: speakers, else recordings, where there are 20, else utterances."
    )
    resamples: int = option(10_000, "Resamples of the paired bootstrap.", low=100, high=1_000_000)
    common: bool = option(False, "Compare the utterances that both have, where one has more.", off="")
    changed: int = option(50, "Utterances of each set to show side by side, those that changed most.", low=0)
    normalizer: NormalizerName | None = option(
        None, "Score both anew by this normaliser; default: the one that both were scored by, else english."
    )
    scorer: Scorer | None = option(None, "Score both anew: jiwer or sclite; default: what both were scored by.")
    measure: Measure | None = option(
        None, "Compare errors of words or of characters; default: by what both were measured, else as eval does."
    )
    spelling: str | None = option(
        None, "A model's normalizer.json, for english; default: what the evaluations keep, else OpenAI's map."
    )


@dataclass(frozen=True)
class ExportConfig(Settings):
    float: bool = option(False, "Export the unquantized model.", off="")


@dataclass(frozen=True)
class TranscribeConfig(Execution):
    runtime: RuntimeName | None = option(
        None,
        "What runs the model; default: float, of a gemm model int8, of a paper one emulated, of exported ones onnx.",
    )
    format: Literal["text", "json", "srt", "vtt"] = option("text", "How to write the transcripts.")
    batch_size: int = option(8, "Pieces of audio decoded together.", low=1)
    language: str | None = option(
        None,
        "Spoken language by code or name, or auto: found out by the model; default: the configuration's, else auto.",
    )
    task: Literal["transcribe", "translate"] | None = option(
        None, "translate: write in English what is said in any language; default: the configuration's, else transcribe."
    )
    timestamps: bool | None = option(
        None, "Decode with times and go on from the last one, or give the pieces' times; default: where it knows how."
    )
    temperature_fallback: bool = option(True, "Decode loops and guesses again, at temperatures of 0.2 to 1.")
    no_speech_threshold: float = option(
        0.6, "Probability of no speech above which what is unlikely, too, counts as silence; 1: never.", low=0, high=1
    )
    skip_bad: bool = option(False, "Count unusable recordings and go on without an error.")


@dataclass(frozen=True)
class OutliersConfig(Settings):
    layer: str | None = option(None, "Sites, such as dec.1.out_proj or enc.*.out_proj; default: attention outputs.")
    massive: bool | None = option(
        None, "Largest values too: channel, place and size, as table and figure; default sites: the blocks'.", off=""
    )
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class PlotAttentionConfig(Settings):
    layer: str = option("dec.-1", "Attention block: enc.<i>, dec.<i> or dec.<i>.cross.")
    head: str = option("0", "Head, counted from zero, or all for a grid.")


@dataclass(frozen=True)
class ReportConfig(Settings):
    title: str = option("whisperq report", "Heading of the page.")
    verify: bool = option(True, "Hash every file of every artifact, not the manifests alone.")
