"""Makes the small speech sample that ships with the examples: digits spoken by espeak-ng.

    python make_sample.py --out sample

Every voice speaks each digit at several speeds and pitches; its clips are
trimmed, joined to strings of two to seven digits, and partly put in noise. No
voice is in two of the three lists. Same seed and espeak-ng, same sample.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from joining import RATE, WORDS, Clip, Joined, join, list_entry, trim, write_list

VOICES = {
    "train": (
        "en-us+m1 en-us+m3 en-us+f2 en-us+f4 en-us+Andy en-us+Alicia en-us+grandpa en-us+steph "
        "en-gb+m2 en-gb+m7 en-gb+f1 en-gb+linda en-gb+paul en-gb+Michael en-us+Lee en-gb+grandma "
        "en-us-nyc+m8 en-us-nyc+Annie en-gb-scotland+john en-gb-scotland+aunty en-029+robert "
        "en-029+f5 en-gb-x-rp+david en-gb-x-gbclan+edward"
    ).split(),
    "validation": "en-us+adam en-gb+belinda en-gb-x-rp+m6 en-029+Andrea en-us-nyc+victor".split(),
    "test": "en-us+f3 en-gb+m4 en-029+rob en-gb-scotland+m5 en-gb-x-rp+anika en-us+max".split(),
}
STRINGS = {"train": 500, "validation": 80, "test": 160}
TAKES = 4  # of every digit and voice
OPUS_LEVEL = 0.96  # libsndfile's compression level: about 16 kbit/s


def speak(voice: str, word: str, speed: int, pitch: int) -> np.ndarray:
    """espeak-ng saying one word at `speed` words a minute and `pitch` 0..99 -> samples at RATE."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", wav.name]
        subprocess.run([*command, word], check=True)
        samples, rate = soundfile.read(wav.name, dtype="float32")
    return trim(soxr.resample(samples, rate, RATE))


def voice_clips(voice: str, rng: np.random.Generator) -> dict[str, list[Clip]]:
    """Every digit of one voice, TAKES times."""
    clips: dict[str, list[Clip]] = {word: [] for word in WORDS}
    for word in WORDS:
        for _ in range(TAKES):
            speed, pitch = int(rng.integers(125, 215)), int(rng.integers(25, 75))
            clips[word].append(Clip(speak(voice, word, speed, pitch), word))
    return clips


def draw_string(clips: dict[str, list[Clip]], rng: np.random.Generator) -> Joined:
    """Two to seven digits of one voice."""
    words = rng.choice(WORDS, size=rng.integers(2, 8))
    return join([clips[word][rng.integers(TAKES)] for word in words], rng)


def in_noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third stays clean, the rest gets white or brownish noise at 10 to 40 dB; random gain."""
    if rng.random() > 1 / 3:
        noise = rng.standard_normal(len(samples), dtype=np.float32)
        if rng.random() < 0.5:
            noise = np.convolve(noise, 0.9 ** np.arange(50), mode="same")
        wanted = samples.std() * 10 ** (-rng.uniform(10, 40) / 20)
        samples = samples + noise * (wanted / noise.std())
    gain = 10 ** (rng.uniform(-20, -1) / 20) / np.abs(samples).max()
    return (samples * gain).astype(np.float32)


def make_split(out: Path, split: str, rng: np.random.Generator) -> int:
    """Write one list and its audio; returns the bytes of audio."""
    voices = {voice: voice_clips(voice, rng) for voice in VOICES[split]}
    entries, size = [], 0
    for index in range(STRINGS[split]):
        voice = VOICES[split][index % len(voices)]
        joined = draw_string(voices[voice], rng)
        audio = Path("audio") / f"{split}-{index:03d}.opus"
        samples = in_noise(joined.samples, rng)
        soundfile.write(out / audio, samples, RATE, "OPUS", format="OGG", compression_level=OPUS_LEVEL)
        size += (out / audio).stat().st_size
        entries.append(list_entry(audio.stem, str(audio), joined, voice))
    write_list(out / f"{split}.jsonl", entries)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(VOICES):
        size = make_split(args.out, split, np.random.default_rng([args.seed, number]))
        voices = len(VOICES[split])
        print(f"{split}: {STRINGS[split]} strings, {voices} voices, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
