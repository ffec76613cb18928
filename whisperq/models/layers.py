"""Which teacher layers a student copies.

    first:  encoder layer i copies floor(i * L / n)         0, 4, ..., 28 for 8 of 32 (the paper's section 2.4)
    spread: layer i copies floor(i * (L - 1) / (n - 1))     first and last included (distil-whisper's rule)

Decoder: always `spread`, so that two layers are the first and the last (the paper).
"""

from whisperq.errors import UsageError


def copied_layers(teacher_layers: int, count: int, rule: str, part: str) -> list[int]:
    """The teacher's layer (zero-based) of each student layer. Raises UsageError for an impossible count."""
    if not 1 <= count <= teacher_layers:
        raise UsageError(f"the student cannot have {count} {part} layers: its teacher has {teacher_layers}")
    if rule == "first" or count == 1:
        return [i * teacher_layers // count for i in range(count)]
    return [i * (teacher_layers - 1) // (count - 1) for i in range(count)]


def parse_indices(text: str, teacher_layers: int, part: str) -> list[int]:
    """ "0,2,-1" as layer indices; negative ones count from the end. Raises UsageError."""
    try:
        indices = [int(item) for item in text.split(",")]
    except ValueError:
        raise UsageError(f"--{part}-indices must be numbers joined by commas, such as 0,2,5, not {text!r}") from None
    for index in indices:
        if not -teacher_layers <= index < teacher_layers:
            raise UsageError(f"--{part}-indices names layer {index}, but the teacher has {teacher_layers}")
    return [index % teacher_layers for index in indices]
