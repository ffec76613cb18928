"""What the rows of a site's tensor stand for: their roles.

    speech, padding   frames that begin within the recording, and those of the silence that fills the window
    prompt, tokens    the decoder's constant start, and the text behind it

Of the R rows that a site has for a window of N samples, the first ceil(n R / N) begin within a recording of n samples.
Where padding is masked (the decoder's, and all of a batch of waveforms) its rows have no role: they are never seen.
"""


def frame_roles(samples: int, window: int, rows: int) -> dict[str, range]:
    """Rows of speech and of padding; samples of the recording and of the window."""
    speech = min(-(-samples * rows // window), rows)
    return {"speech": range(speech), "padding": range(speech, rows)}


def token_roles(prompt: int, rows: int) -> dict[str, range]:
    """Rows of the prompt, of so many tokens, and of the text."""
    start = min(prompt, rows)
    return {"prompt": range(start), "tokens": range(start, rows)}
