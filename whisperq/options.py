"""What each command can be told: frozen dataclasses, the paper's values as defaults.

One field is one flag: its default and its help line stand here and nowhere else.
"""

from dataclasses import dataclass
from typing import Literal

from whisperq.flags import NormalizerName, option
from whisperq.training_options import DistillConfig, InitStudentConfig, PseudoLabelConfig

Observer = Literal["ema", "minmax", "percentile", "mse"]
RuntimeName = Literal["float", "emulated", "int8", "onnx", "openvino"]


@dataclass(frozen=True)
class CalibrateConfig:
    batches: int = option(16, "Batches of calibration data.", low=1)
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    observer: Observer = option("ema", "Range estimator of the activations.")
    momentum: float = option(0.9, "EMA: weight of the old value; the first batch initialises.", low=0, high=0.999999)
    percentile: float = option(99.999, "Percentile observer: percent of the mass that is kept.", low=50, high=100)
    activation_bits: int | None = option(None, "Bits that the mse observer optimises for; default 8.", low=4, high=8)
    sites: str | None = option(None, "Sites to observe, such as enc.*.fc1,dec.1.out_proj; default: all.")
    channel_maxima: bool = option(False, "Keep each channel of the norms' outputs too, for quantize --smooth.", off="")
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class QuantizeConfig:
    recipe: Literal["gemm", "paper"] = option("gemm", "Which weights and activations: see the README.")
    weight_bits: int = option(8, "Bits of the weights, 2 to 8.", low=2, high=8)
    group: int | None = option(None, "Weights that share a scale, such as 64; default: an output channel's.", low=8)
    weights: Literal["rtn", "mse"] = option("rtn", "rtn: scales span all weights; mse: least squared error.")
    activations: Literal["static", "dynamic", "none"] = option(
        "static", "Ranges of the activations: calibrated, each token's own, or none: weights alone are quantized."
    )
    activation_bits: int = option(8, "Bits of the activations, 4 to 8.", low=4, high=8)
    per_channel: bool | None = option(
        None,
        "One weight scale for each output channel, or for the tensor; default: gemm per channel, paper per tensor.",
        off="per-tensor",
    )
    exclude: tuple[str, ...] = option((), "Keep these sites in float, such as enc.0.* or dec.1.fc1:weight; repeatable.")
    keep_worst: int | None = option(None, "Keep the N parts in float that whisperq sensitivity found worst.", low=1)
    smooth: float | None = option(None, "SmoothQuant's alpha, such as 0.5; default: not smoothed.", low=0, high=1)
    encoder_only: bool = option(False, "Quantize the encoder alone.")


@dataclass(frozen=True)
class SensitivityConfig:
    by: Literal["block", "site"] = option("block", "Parts: attention and feed-forward blocks, or sites and weights.")
    wer: bool = option(False, "Word error rates of greedy decoding too: slow.", off="")
    worst: int = option(3, "Parts that the --exclude line names.", low=1)
    limit: int = option(32, "First N utterances of each list only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class Execution:
    """How a model is run."""

    runtime: RuntimeName | None = option(
        None, "What runs the model; default: float, of a quantized model emulated, of an exported one onnx."
    )
    attention_dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "int8, openvino: number format of attention's products; auto: bfloat16 where the CPU multiplies it."
    )
    reduce_range: bool | None = option(
        None, "int8: activations on 7 bits, so that sums cannot saturate; default: where the CPU lacks VNNI."
    )


@dataclass(frozen=True)
class EvalConfig(Execution):
    batch_size: int = option(16, "Utterances decoded together.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of every set; default: the one that the set names, else english."
    )
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class ExportConfig:
    float: bool = option(False, "Export the unquantized model.", off="")


@dataclass(frozen=True)
class TranscribeConfig(Execution):
    runtime: RuntimeName | None = option(
        None,
        "What runs the model; default: float, of a gemm model int8, of a paper one emulated, of exported ones onnx.",
    )
    format: Literal["text", "json", "srt", "vtt"] = option("text", "How to write the transcripts.")
    batch_size: int = option(8, "Pieces of audio decoded together.", low=1)
    timestamps: bool | None = option(
        None, "Times as the model writes them, not those of the pieces; default: in json, srt, vtt where it knows how."
    )


@dataclass(frozen=True)
class OutliersConfig:
    layer: str | None = option(None, "Sites, such as dec.1.out_proj or enc.*.out_proj; default: attention outputs.")
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class PlotAttentionConfig:
    layer: str = option("dec.-1", "Attention block: enc.<i>, dec.<i> or dec.<i>.cross.")
    head: str = option("0", "Head, counted from zero, or all for a grid.")


SETTINGS = {
    "init-student": InitStudentConfig,
    "pseudo-label": PseudoLabelConfig,
    "distill": DistillConfig,
    "calibrate": CalibrateConfig,
    "quantize": QuantizeConfig,
    "sensitivity": SensitivityConfig,
    "export": ExportConfig,
    "eval": EvalConfig,
    "transcribe": TranscribeConfig,
    "outliers": OutliersConfig,
    "plot-attention": PlotAttentionConfig,
}
