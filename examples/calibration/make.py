"""Makes the speech that ships inside whisperq: what `calibrate` listens to where nobody names recordings.

    python make.py        # needs espeak-ng and flite: apt-get install espeak-ng flite

calibration.jsonl serves `whisperq calibrate`; check.jsonl, other sentences by other voices, is a smoke check of what
came out. Every utterance has a pace, a size of the speaker, a room and a level of its own. Same seed, same
versions of the synthesisers and of libsndfile: the same bytes.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.random import Generator
from ogg import with_serial
from room import RATE, at_level, babble, band, reverberant, room_tone, silence, trim

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / "whisperq" / "data" / "calibration"
# Flite's are built from recordings of people and sound like them; espeak-ng's, made by rule, bring accents and variety.
VOICES = {
    "calibration": (
        "flite:slt en-us+m1 flite:awb en-gb+f2 flite:slt en-gb+Michael flite:awb en-us-nyc+f1 flite:slt en-us+grandpa "
        "flite:awb en-gb+linda flite:slt en-gb-scotland+m5 flite:awb en-029+Annie flite:slt en-us+Lee flite:awb "
        "en-us-nyc+m7 flite:slt en-us+max flite:awb en-gb+m2"
    ).split(),
    "check": "flite:rms flite:rms flite:rms en-gb-x-rp+belinda flite:rms flite:rms flite:rms en-us-nyc+victor".split(),
}
LONGEST = 29.5  # seconds, so that each fits Whisper's window
OPUS_LEVEL = 0.93  # libsndfile's compression level: about 24 kbit/s


def sentences(name: str) -> list[tuple[str, str]]:
    """Each utterance as it is written and as it is spoken."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" | ") for line in lines if not line.startswith("#")]
    return [(pair[0].replace(" //", ""), pair[-1]) for pair in pairs]


def speak(voice: str, text: str, pace: float, size: float) -> np.ndarray:
    """Samples at RATE. pace: of the voice's own; size: below 1 a smaller speaker with a higher, brighter voice."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        flite = ["flite", "-voice", voice.removeprefix("flite:"), "--setf", f"duration_stretch={1 / pace / size:.3f}"]
        espeak = ["espeak-ng", "-v", voice, "-s", f"{160 * pace * size:.0f}"]
        command = [*flite, "-o", wav.name, "-t"] if voice.startswith("flite:") else [*espeak, "-w", wav.name]
        subprocess.run([*command, text], check=True)
        samples, rate = soundfile.read(wav.name, dtype="float32")
    return trim(soxr.resample(samples, round(rate / size), RATE))


def said(voice: str, spoken: str, rng: Generator) -> np.ndarray:
    """The sentences with pauses between them."""
    pace, size = rng.uniform(0.78, 1.1), rng.uniform(0.9, 1.12)
    parts: list[np.ndarray] = []
    for sentence in spoken.split(" // "):
        parts += [speak(voice, sentence, pace, size), silence(rng.uniform(0.25, 0.8))]
    return np.concatenate(parts[:-1])


def recorded(speech: np.ndarray, others: list[np.ndarray], rng: Generator) -> np.ndarray:
    """As a microphone would have it: a quarter as it was synthesised, the rest in rooms."""
    most = 0.4 if len(speech) < 3 * RATE else 1.2
    sound = np.concatenate([silence(rng.uniform(0.1, most)), speech, silence(rng.uniform(0.2, most))])
    level = rng.uniform(-36, -16)
    kind = rng.choice(["none", "tone", "tone", "tone", "tone", "echo", "babble", "telephone"])
    if kind != "none":
        sound = reverberant(sound, rng) if rng.random() < 0.5 or kind == "echo" else sound
        noise = babble(len(sound), others, rng) if kind == "babble" else room_tone(len(sound), rng)
        sound = sound + noise * sound.std() * 10 ** (-rng.uniform(18, 45) / 20)
        sound = band(sound, 300, 3400) if kind == "telephone" else sound
    return at_level(sound, level)


def make_list(name: str, out: Path, rng: Generator) -> None:
    """One list and its recordings. Raises ValueError for an utterance that Whisper's window cannot hold."""
    written, voices = sentences(name), VOICES[name]
    spoken = [said(voices[n % len(voices)], text, rng) for n, (_, text) in enumerate(written)]
    lines = []
    for number, (text, _) in enumerate(written):
        others = [spoken[(number + step) % len(spoken)] for step in (3, 7, 11)]
        sound = recorded(spoken[number], others, rng)
        if len(sound) > LONGEST * RATE:
            raise ValueError(f"{name}, utterance {number}: {len(sound) / RATE:.1f} s")
        audio = Path("audio") / f"{name}-{number:02d}.opus"
        soundfile.write(out / audio, sound, RATE, "OPUS", format="OGG", compression_level=OPUS_LEVEL)
        (out / audio).write_bytes(with_serial((out / audio).read_bytes(), number))
        seconds = round(len(sound) / RATE, 3)
        voice = voices[number % len(voices)]
        lines.append({"audio_filepath": str(audio), "duration": seconds, "text": text, "speaker": voice})
    (out / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    print(f"{name}: {len(lines)} utterances, {sum(line['duration'] for line in lines) / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PLACE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shutil.rmtree(args.out / "audio", ignore_errors=True)
    (args.out / "audio").mkdir(parents=True)
    for number, name in enumerate(VOICES):
        make_list(name, args.out, np.random.default_rng([args.seed, number]))
    size = sum(file.stat().st_size for file in args.out.rglob("*.*"))
    print(f"{size / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
