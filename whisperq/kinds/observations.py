"""What the results of an artifact that was observed of models and data hold."""

from typing import Annotated, NotRequired, TypedDict

from whisperq.kinds.models import Figures
from whisperq.kinds.pattern import Missing
from whisperq.kinds.scores import LeftOutPadding, WordCounts
from whisperq.schema import count, number


class Searched(TypedDict):
    """A layer whose range stablequant searched: WER, a fraction, or SNR in dB."""

    layer: str
    bits: int
    cut_off: float | None  # percent of the values kept; None: the full range
    alone: float | None  # at its full range, all else float; null: it breaks the logits, to NaN or infinity
    chosen: float | None  # null where it is infinite: nothing differs


class Used(TypedDict):
    """The data of a calibration."""

    batches: int
    batches_asked: int
    utterances: int
    audio_seconds: float


class Calibration(Used):
    """Results of `whisperq calibrate`."""

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


class Costs(TypedDict):
    """All that was measured: sensitivity.json."""

    float_wer: float | None
    everything: State
    parts: dict[str, PartCost]  # the worst first


class CostSummary(TypedDict):
    float_wer: float | None
    everything: State
    parts: int
    worst: dict[str, PartCost]
    exclude: NotRequired[str]  # the flag that keeps the worst in float; none of a mixed-precision model


class Sensitivity(CostSummary):
    """Results of `whisperq sensitivity`."""

    recipe: str
    by: str
    tokens: int
    skipped: int | None
    figures: NotRequired[Figures]


class OutlierFigures(TypedDict):
    """Outlier statistics over all sites together."""

    kurtosis: float | None
    max_inf_norm: float | None
    peak: float | None
    outliers: int
    values: Annotated[int, count(1)]
    sites: list[str]


class ObservedOutliers(OutlierFigures):
    roles: Annotated[dict[str, OutlierFigures], Missing({})]  # of the rows of each role: speech, padding, tokens


class LargestValue(TypedDict):
    """The largest value at a site; `scoring.massive` says what massive is."""

    site: str
    channel: int
    value: float
    role: str  # of the row, whose number is `position`
    position: int
    token: str | None
    utterance: NotRequired[str]
    median: NotRequired[float]
    deviation: NotRequired[float]
    times_median: float | None  # null where it is infinite, as the next
    times_deviation: float | None
    massive: bool
    largest_in: int  # utterances
    massive_in: int


class Definition(TypedDict):
    magnitude: float
    times_median: float


class MassiveValues(TypedDict):
    """How many sites of a model have massive values, and which have the largest."""

    definition: Definition
    sites: int
    massive_sites: int
    massive_channels: int
    largest: list[LargestValue]


class MassiveOfModels(TypedDict, total=False):
    massive: Annotated[dict[str, MassiveValues], Missing({})]  # by title; where they were asked for


class Compared(TypedDict, total=False):
    compare: ObservedOutliers  # of the second model, where one was named


class Outliers(Compared, MassiveOfModels):
    """Results of `whisperq outliers`."""

    model: ObservedOutliers
    titles: dict[str, str]  # of model and compare
    padding: str
    utterances: int
    top_dimensions: dict[str, dict[str, list[tuple[int, int, float]]]]  # title -> site -> dimension, outliers, share
    skipped: NotRequired[int]
    figures: NotRequired[Figures]


def of_roles(results: Outliers) -> dict[str, ObservedOutliers]:
    """The figures of the model, and of the one that it was compared with."""
    compared = {"compare": results["compare"]} if "compare" in results else {}
    return {"model": results["model"], **compared}


Share = Annotated[float, number(0)]  # of a query's probability, a fraction


class Attention(TypedDict):
    """Results of `whisperq plot-attention`."""

    block: str
    heads: list[int]
    utterance: str
    text: str
    shape: list[int]  # heads, queries, keys
    shares: Annotated[dict[str, dict[str, dict[str, Share]]], Missing({})]  # head -> role of queries -> of keys
    figures: NotRequired[Figures]


class LabelCounts(WordCounts):
    """Word errors are those of labels against the references that there are; `utterances` are all labels."""

    scored: int  # labels with a reference
    words: int | None
    audio_seconds: float
    mean_logprob: float | None  # nats per token
    label_wer_above: dict[str, int]  # percent -> labels


class Unlabelled(TypedDict):
    """Utterances without a label, and why."""

    skipped: int | None  # unusable lines and recordings
    longer_than_window: int | None
    unfinished: int | None


class PseudoLabels(LabelCounts, Unlabelled, LeftOutPadding):
    """Results of `whisperq pseudo-label`."""

    normalizers: list[str]
    normalizer_version: NotRequired[int]
    decoded_again: NotRequired[int | None]


class Report(TypedDict):
    """Results of `whisperq report`."""

    artifacts: int
    drawn: int
    tables: dict[str, int]  # title -> rows
    broken: list[str]
    unreadable: list[tuple[str, str]]  # path, reason
