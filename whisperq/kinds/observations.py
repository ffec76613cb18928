"""What the results of an artifact that was observed of models and data hold."""

from typing import Annotated, NotRequired, TypedDict

from whisperq.kinds.models import Figures
from whisperq.kinds.pattern import Missing
from whisperq.kinds.scores import Ends
from whisperq.schema import count


class Searched(TypedDict):
    """A layer whose range stablequant searched: WER, a fraction, or SNR in dB, null where it is infinite."""

    layer: str
    bits: int
    cut_off: float | None  # percent of the values kept; None: the full range
    alone: float | None  # at its full range, all else float
    chosen: float | None


class Used(TypedDict):
    """The data of a calibration."""

    batches: int
    batches_asked: int
    utterances: int
    audio_seconds: float


class Calibration(Used):
    """Of `whisperq calibrate`."""

    sites: int
    channel_maxima: int | bool | None  # sites whose channels were kept
    observers: list[str]  # the first is the calibration's own
    observer: NotRequired[str]  # of earlier versions, which knew one
    decoder_padding: str | None
    skipped: NotRequired[int | None]
    widest: list[tuple[str, float, float]]  # address, minimum, maximum
    metric: Annotated[str | None, Missing(None)]  # of stablequant's search: wer or snr
    stablequant: Annotated[list[Searched], Missing([])]


def one_observer(results: Calibration) -> None:
    """Before a pass served several observers it had the one."""
    if "observers" not in results:
        results["observers"] = [results["observer"]]


class State(TypedDict):
    """Outputs of a model, some of it quantized, against the float one's."""

    snr_db: float | None  # null where it is infinite: nothing differs
    kl: float | None  # nats per token
    wer: float | None  # None where nothing was decoded


class PartCost(TypedDict):
    """A part quantized alone, and float while all else is quantized."""

    alone: State
    all_but: State
    exclude: str  # its addresses
    weights: NotRequired[list[str]]
    activations: NotRequired[list[str]]


class Sensitivity(TypedDict):
    """Of `whisperq sensitivity`."""

    recipe: str
    by: str
    tokens: int
    skipped: int | None
    float_wer: float | None
    everything: State
    parts: int
    worst: dict[str, PartCost]
    exclude: NotRequired[str]  # the flag that keeps the worst in float; none of a mixed-precision model
    figures: NotRequired[Figures]


class ObservedOutliers(TypedDict):
    """Of all sites together."""

    kurtosis: float | None
    max_inf_norm: float | None
    peak: float | None
    outliers: int
    values: Annotated[int, count(1)]
    sites: list[str]


class Outliers(TypedDict):
    """Of `whisperq outliers`."""

    model: ObservedOutliers
    compare: NotRequired[ObservedOutliers]
    titles: dict[str, str]  # of model and compare
    padding: str
    utterances: int
    top_dimensions: dict[str, dict[str, list[tuple[int, int, float]]]]  # title -> site -> dimension, outliers, share
    skipped: NotRequired[int]
    figures: NotRequired[Figures]


class Attention(TypedDict):
    """Of `whisperq plot-attention`."""

    block: str
    heads: list[int]
    utterance: str
    text: str
    shape: list[int]  # heads, queries, keys
    figures: NotRequired[Figures]


class System(TypedDict):
    """What heard the recordings of a robustness."""

    model: str
    runtime: str
    device: str
    sampling_rate: NotRequired[int | None]


class Symptom(TypedDict):
    """Recordings to which something happened, with A and with B; rates are fractions, intervals hold 95 %."""

    symptom: str
    recordings: str
    total: Annotated[int, count(1)]
    count_a: int
    count_b: int
    interval_95_a: Ends
    interval_95_b: Ends
    pairs: dict[str, int]
    difference: float
    difference_interval_95: Ends
    p: float | None
    words_a: NotRequired[int]  # of the symptom words, as the rest
    words_b: NotRequired[int]
    words_change: NotRequired[float]
    words_interval_95: NotRequired[Ends]


class Robustness(TypedDict):
    """Of `whisperq robustness`: A is the float model, B the quantized one."""

    a: System
    b: System
    normalizer: str
    symptoms: list[Symptom]


class PseudoLabels(TypedDict):
    """Of `whisperq pseudo-label`."""

    utterances: int | None
    words: int | None
    audio_seconds: float
    mean_logprob: float | None  # nats per token
    skipped: int | None
    longer_than_window: int | None
    unfinished: int | None
    wer: float | None  # against the references; None where there are none
    hits: int | None
    substitutions: int | None
    deletions: int | None
    insertions: int | None
    reference_words: int
    raw_reference_words: int | None
    empty_references: int | None
    empty_reference_insertions: int | None
    scored: int  # labels with a reference
    label_wer_above: dict[str, int]  # percent -> labels
    normalizers: list[str]
    normalizer_version: NotRequired[int]
    decoded_again: NotRequired[int | None]
    tail_seconds: NotRequired[float | None]


class Report(TypedDict):
    """Of `whisperq report`."""

    artifacts: int
    drawn: int
    tables: dict[str, int]  # title -> rows
    broken: list[str]
    unreadable: list[tuple[str, str]]  # path, reason
