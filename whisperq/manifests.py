"""What a manifest.json of each kind holds. Results that are null are those that no finite number was found for.

All results are optional here: earlier versions wrote fewer, and whoever reads one that is missing says so (`Fields`).
"""

from typing import Any

from whisperq.schema import (
    Check,
    Wrong,
    anything,
    count,
    digest,
    each,
    either,
    items,
    maybe,
    number,
    one_of,
    record,
    row,
    switch,
    text,
)

NUMBER, COUNT, TEXT = maybe(number()), maybe(count()), maybe(text)
ENDS, TEXTS, REASONS = row(NUMBER, NUMBER), items(text), each(text)
SETTING = either(text, NUMBER, switch)


def fields(check: Check, names: str) -> dict[str, Check]:
    """The same check for several names."""
    return dict.fromkeys(names.split(), check)


LAYERS = record({}, {"encoder": items(count()), "decoder": items(count())})
WEIGHTS = fields(count(), "total trainable")
COUNTED = fields(
    COUNT,
    "hits substitutions deletions insertions reference_words raw_reference_words utterances empty_references "
    "empty_reference_insertions reference_characters skipped decoded_again",
)
SET = record({}, {
    **COUNTED,
    **fields(NUMBER, "wer cer audio_seconds wall_seconds features_seconds decoding_seconds rtfx"),
    **fields(TEXT, "group normalizer scorer"),
    "loops": COUNT,
    "wer_interval_95": ENDS,
    "looping": items(record({"id": text, "ngram": text, "times": count()})),
    "confusions": record({}, {
        "substitutions": items(row(text, text, count())),
        **fields(items(row(text, count())), "deletions insertions"),
    }),
})  # fmt: skip
MEANS = fields(NUMBER, "mean_wer mean_cer")
AVERAGE = record({"normalizer": TEXT, "scorer": text, "sets": TEXTS}, {**MEANS, "groups": each(record({}, MEANS))})
SCORES = {"sets": each(SET), "averages": items(AVERAGE), **MEANS}
PRODUCTS = {"integer_products": count(), "float_products": REASONS}
EVALUATION = {
    **SCORES, **PRODUCTS, **fields(text, "runtime device"),
    **fields(NUMBER, "warm_up_seconds peak_memory_gib tail_seconds"),
}  # fmt: skip
VERDICT = {
    **fields(text, "normalizer scorer verdict blocked_by"),
    **fields(number(), "wer_a wer_b difference"),
    **fields(switch, "within_margin enough_words enough_blocks"),
    **fields(COUNT, "utterances words_needed utterances_better utterances_worse"),
    **fields(count(), "reference_words blocks"),
    "p": NUMBER,
    "interval_95": row(number(), number()),
    "matched_pairs": record({}, {"segments": COUNT, **fields(NUMBER, "mean z p")}),
}
COMPARISON = {
    **fields(text, "a b"), "margin": number(), "resamples": COUNT,
    "sets": each(record({}, VERDICT)), "means": items(record({}, VERDICT)),
}  # fmt: skip
TRAINED = {
    **fields(count(), "best_step steps"),
    **fields(COUNT, "skipped search_steps"),
    **fields(NUMBER, "validation_wer training_seconds samples_per_second"),
    **fields(TEXT, "normalizer device autocast"),
    "final": record({}, fields(NUMBER, "step loss ce kl ctc learning_rate gradient_norm tokens")),
}
EASED = fields(NUMBER, "alpha error error_before products error_saved ratio channels")
QUANTIZED = {
    **TRAINED,
    **fields(TEXT, "sites exception weight_scales smoothed_observer observer cross_cache mode"),
    "recipe": text,
    "activation_ranges": one_of("static", "dynamic", "none"),
    **fields(COUNT, "group activation_bits weights activations moved_from_most_probable"),
    **fields(number(), "weight_bits target_bits average_bits quantized_ratio"),
    **fields(count(1), "bytes float_bytes"),
    "extra_products": NUMBER,
    "smooth": maybe(either(one_of("auto", "none"), number())),
    **fields(TEXTS, "smoothed kept_worst"),
    **fields(each(record({}, EASED)), "scaled massive"),
    **fields(REASONS, "float_weights float_activations"),
    **fields(each(count()), "float_weights_by_reason float_activations_by_reason bits"),
}
SEARCHED = {"layer": text, "bits": count(), "cut_off": NUMBER, "alone": NUMBER, "chosen": NUMBER}
CALIBRATION = {
    **fields(count(), "batches utterances batches_asked sites"),
    "audio_seconds": number(),
    "channel_maxima": either(COUNT, switch),
    **fields(TEXT, "observer decoder_padding metric"),
    "observers": TEXTS,
    "widest": items(row(text, number(), number())),
    "stablequant": items(record({}, SEARCHED)),
}
STATE = record({}, fields(NUMBER, "snr_db kl wer"))
SENSITIVITY = {
    **fields(text, "recipe by exclude"), **fields(count(), "tokens parts"), "skipped": COUNT, "float_wer": NUMBER,
    "everything": STATE, "worst": each(record({}, {"alone": STATE, "all_but": STATE, "exclude": text})),
}  # fmt: skip
FIGURES = {
    **fields(NUMBER, "kurtosis max_inf_norm peak"), "outliers": count(), "values": count(1), "sites": TEXTS,
}  # fmt: skip
OBSERVED = record({}, {**FIGURES, "roles": each(record({}, FIGURES))})
PEAK = record({}, {
    **fields(text, "site role"), "token": TEXT, "value": number(), "massive": switch,
    **fields(count(), "channel position massive_in largest_in"), **fields(NUMBER, "times_median times_deviation"),
})  # fmt: skip
MASSIVE = record({}, {
    **fields(count(), "sites massive_sites massive_channels"), "largest": items(PEAK),
    "definition": record({}, fields(number(), "magnitude times_median")),
})  # fmt: skip
OUTLIERS = {
    **fields(OBSERVED, "model compare"), "titles": REASONS, "padding": text, "utterances": COUNT,
    "top_dimensions": each(each(items(row(count(), count(), number())))),
    "massive": each(MASSIVE),
}  # fmt: skip
SYSTEM = record({}, {**fields(text, "model runtime device"), "sampling_rate": COUNT})
SYMPTOM = record({}, {
    **fields(text, "symptom recordings"),
    **fields(count(), "count_a count_b words_a words_b"),
    "total": count(1),
    **fields(number(), "difference words_change"),
    **fields(row(number(), number()), "interval_95_a interval_95_b difference_interval_95 words_interval_95"),
    "pairs": each(count()),
    "p": NUMBER,
})  # fmt: skip
LABELS = {
    **COUNTED, **fields(count(), "scored reference_words"), **fields(COUNT, "words longer_than_window unfinished"),
    **fields(NUMBER, "wer mean_logprob tail_seconds"), "audio_seconds": number(), "label_wer_above": each(count()),
    "normalizers": TEXTS,
}  # fmt: skip

SHARES = each(each(number(0)))  # of a head, by role of the queries, then of the keys

RESULTS: dict[str, dict[str, Check]] = {
    "student": {
        "layer_map": LAYERS, "gate": text, "parameters": record({}, WEIGHTS), "teacher_parameters": record({}, WEIGHTS),
    },
    "distilled": TRAINED,
    "calibration": CALIBRATION,
    "quantized": QUANTIZED,
    "evaluation": EVALUATION,
    "scores": SCORES,
    "comparison": COMPARISON,
    "sensitivity": SENSITIVITY,
    "outliers": OUTLIERS,
    "attention": {
        **fields(text, "block text utterance"), **fields(items(count()), "heads shape"), "shares": each(SHARES),
    },
    "onnx": {
        **fields(TEXT, "recipe gate"), "integer_products": TEXTS, "float_products": REASONS, "bytes": each(count()),
    },
    "pseudo-labels": LABELS,
    "robustness": {**fields(SYSTEM, "a b"), "normalizer": text, "symptoms": items(SYMPTOM)},
    "report": {
        **fields(count(), "artifacts drawn"), "tables": each(count()), "broken": TEXTS,
        "unreadable": items(row(text, text)),
    },
}  # fmt: skip
CONFIG = record({}, {
    "seed": COUNT, **fields(items(text), "exclude"), "normalizers": either(maybe(each(text)), items(text)),
    **fields(TEXT, "normalizer scorer language task layer runtime"),
})  # fmt: skip


def inside(value: Any, place: str) -> None:
    """A file's name: relative, and within its artifact."""
    text(value, place)
    if value.startswith("/") or ".." in value.split("/"):
        raise Wrong(f"{place} lies outside the artifact")


NAMED = record({"path": text, "sha256": digest})
MANIFEST = record({
    "kind": text, "schema": count(1), "command": text, "config": CONFIG, "inputs": each(NAMED),
    "files": each(digest, inside), "results": record({}),
})  # fmt: skip


def manifest(value: Any, place: str) -> None:
    """A whole manifest: what all have, then the results of its kind."""
    MANIFEST(value, place)
    each(either(SETTING, items(SETTING), each(SETTING)))(value["config"], "config")
    known = RESULTS.get(value["kind"], {})
    record({}, {"figures": TEXTS, **known})(value["results"], "results")
    anything(value, place)
