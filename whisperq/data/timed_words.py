"""What was said when: the words of a recording with their times."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Words, and where they lie in their recording."""

    start: float  # seconds
    end: float  # seconds
    text: str


@dataclass(frozen=True)
class Language:
    """The language that a model detected."""

    code: str
    probability: float


@dataclass(frozen=True)
class Transcript:
    """A recording's segments in order; stretches in which nothing is said have none."""

    name: str  # as the user named the recording; - is standard input
    duration: float  # seconds
    segments: tuple[Segment, ...]
    language: Language | None = None  # where the model found it out

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)
