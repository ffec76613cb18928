"""Whether anybody speaks in recordings that a model is to be measured on."""

from collections.abc import Sequence

from whisperq.data.batches import Loader
from whisperq.data.loudness import Levels
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError


def without_speech(loader: Loader, given: Sequence[Utterance], drawn: Sequence[Utterance]) -> str | None:
    """None where somebody speaks, else a sentence that says how little there is.

    given: as they were listed; drawn: the same with a model's hypotheses where there was no text, of which those of
    silent recordings count for nothing. Reads no more than up to the first one with speech. Raises InputError where no
    word is in any: where the list says so, or all are silent.
    """
    pairs = list(zip(given, drawn, strict=True))
    listed = any(has_word(utterance.text or "") for utterance in given)
    loud = False
    for before, after in pairs:
        if after.text is not None and before.text is not None and not has_word(before.text):
            continue  # nobody speaks there
        if _sounds(loader, after):
            if after.text is None or has_word(after.text):
                return None
            loud = True
    if listed:
        return f"all {len(pairs):,} recordings to calibrate on are silent or unusable: ranges will not hold speech"
    if loud:
        return f"the model transcribes no word in any of the {len(pairs):,} recordings to calibrate on"
    raise InputError(f"no word is in any of the {len(pairs):,} recordings to calibrate on; name speech with --data")


def has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _sounds(loader: Loader, utterance: Utterance) -> bool:
    """Whether the recording is not silent; False for unreadable audio, which is reported where it is needed."""
    try:
        audio = loader.audio(utterance)
    except InputError:
        return False
    return audio is not None and not Levels.of(audio, loader.extractor.sampling_rate).silent
