"""What the results of an artifact that is a model hold: a student, a distilled, quantized or exported one."""

from typing import Annotated, Literal, NotRequired, TypedDict, TypeGuard

from whisperq.former import WEIGHT_OBSERVER
from whisperq.kinds.pattern import Missing
from whisperq.schema import count

Size = Annotated[int, count(1)]  # bytes
Figures = Annotated[list[str], Missing([])]  # names of pictures in the folder


class LayerMap(TypedDict):
    """The teacher's layers, in the order in which the student has them."""

    encoder: list[int]
    decoder: list[int]


class Parameters(TypedDict):
    total: int
    trainable: int


class Student(TypedDict):
    """Results of `whisperq init-student`."""

    layer_map: LayerMap
    gate: str
    parameters: Parameters
    teacher_parameters: Parameters


class LastStep(TypedDict, total=False):
    """Log of a training's last step; losses in nats per token."""

    step: float | None
    loss: float | None
    ce: float | None
    kl: float | None
    ctc: float | None
    learning_rate: float | None
    gradient_norm: float | None
    tokens: float | None


class Trained(TypedDict):
    """Results that every training has."""

    best_step: int  # of the weights that were kept
    steps: int
    validation_wer: float | None  # a fraction, at the best step
    normalizer: str | None  # of that WER
    final: LastStep
    training_seconds: float | None
    device: str | None
    autocast: str | None  # a dtype
    skipped: int | None  # lines and recordings that could not be used
    dropped: NotRequired[dict[str, int]]  # utterances of the training data, by reason
    micro_batch: NotRequired[int | None]  # windows of one forward pass; None: a process's whole share of the batch


class Distilled(Trained):
    """Results of `whisperq distill`."""

    samples_per_second: float | None


class Scheme(TypedDict):
    """How a model is quantized, as it was asked for; `schemes` tells it in words."""

    recipe: str
    weight_bits: float  # of mixed precision the mean
    group: Annotated[int | None, Missing(None)]  # weights of a scale; None: all of an output channel, or of a tensor
    weight_scales: Annotated[str | None, Missing("minmax")]
    activation_bits: int | None  # None: activations stay float
    activation_ranges: Annotated[Literal["static", "dynamic", "none"], Missing("static")]
    sites: NotRequired[Annotated[str | None, Missing(None)]]  # of the paper recipe, as the next
    exception: NotRequired[Annotated[str | None, Missing(None)]]


class Described(TypedDict):
    """Which weights and activations are integers, and why the others are not."""

    weights: int | None
    activations: int | None
    float_weights: dict[str, str]  # parameter -> why
    float_activations: dict[str, str]  # address -> why
    float_weights_by_reason: dict[str, int]
    float_activations_by_reason: dict[str, int]


class Scaled(TypedDict):
    """A site whose channels were scaled: the relative squared error of what its layers give out."""

    alpha: float
    error_before: float
    error: float


class Massive(TypedDict, total=False):
    """A site with channels on 16 bits."""

    channels: float
    products: float  # more of them, a fraction of all
    error_saved: float
    ratio: float | None  # of a recipe that is emulated alone: greatest channel over the median one; null: infinite


class Eased(TypedDict, total=False):
    """What was done about outliers before quantization: smoothing, scaling, and massive channels on 16 bits."""

    smooth: Annotated[Literal["auto", "none"] | float | None, Missing(None)]  # auto, or SmoothQuant's alpha
    smoothed: Annotated[list[str], Missing([])]  # sites
    smoothed_observer: Annotated[str | None, Missing(None)]  # of their ranges; None where no range is static
    observer: Annotated[str | None, Missing(None)]  # of all others' ranges
    scaled: Annotated[dict[str, Scaled], Missing({})]  # by site, as the next
    massive: Annotated[dict[str, Massive], Missing({})]
    extra_products: Annotated[float | None, Missing(None)]  # a fraction of all; None where nothing was searched


class FileSizes(TypedDict):
    """Bytes on disk, and of the float model's weights."""

    bytes: Size
    float_bytes: Size


class Quantized(Scheme, Eased, Described, FileSizes):
    """Results of `whisperq quantize`, and what `whisperq mixed-precision` has in common with them."""

    cross_cache: NotRequired[Annotated[str | None, Missing("float")]]  # int8: decoding keeps keys and values as these
    kept_worst: NotRequired[Annotated[list[str], Missing([])]]  # addresses of parts that stayed float
    figures: NotRequired[Figures]


class Ratios(TypedDict):
    """Sizes of a mixed-precision model: bytes of quantized weights with scales, and compression ratios to float32."""

    quantized_bytes: int
    quantized_float_bytes: int
    quantized_ratio: float
    ratio: float  # of the whole file


class StoredSizes(FileSizes, Ratios):
    pass


class MixedPrecision(Quantized, Trained, Ratios):
    """Results of `whisperq mixed-precision`, whose artifact is a quantized model too."""

    mode: str
    target_bits: float
    average_bits: float
    bits: dict[str, int]  # by address
    moved_from_most_probable: int | None  # weights whose bits are not the most probable ones, to meet the target
    search_steps: int | None


def is_mixed(results: Quantized) -> TypeGuard[MixedPrecision]:
    """Whether bits were searched for while the model was trained; else a recipe chose them."""
    return "mode" in results


class Onnx(TypedDict):
    """Results of `whisperq export`."""

    recipe: str | None  # None of a float model
    gate: str | None  # None of a CTC model
    integer_products: list[str]
    float_products: dict[str, str]  # address -> why
    bytes: dict[str, int]  # by file


def todays_weight_observer(results: Quantized) -> None:
    results["weight_scales"] = WEIGHT_OBSERVER.value(results["weight_scales"])
