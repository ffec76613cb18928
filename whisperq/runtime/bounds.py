"""How many tokens an utterance may write, by the length of its sound: what never ends by itself ends there.

    bound = min(SHORT + ceil(N s), R)

s: seconds of features before their padding; N: tokens a second; R: tokens that the decoder takes behind the prompt. The
bound hangs on nothing but the utterance itself. In Whisper's vocabulary the fastest of 2,133 utterances read in English
has 8.5 tokens a second; of a script whose characters are three tokens each, such as Burmese, speech has several times
as many.
"""

from math import ceil

from torch import Tensor

from whisperq.runtime.padding import ROWS_PER_SECOND, speech_frames

SHORT = 16  # tokens that any utterance may write


def bounds_of(features: Tensor, tokens_per_second: float, room: int) -> list[int]:
    """features (batch, mel bins, frames) -> of each utterance, the most new tokens; room: what the decoder takes."""
    seconds = [frames / 2 / ROWS_PER_SECOND for frames in speech_frames(features)]
    return [min(SHORT + ceil(tokens_per_second * s), room) for s in seconds]
