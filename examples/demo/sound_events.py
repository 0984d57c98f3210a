"""A procedural corpus of short sound events: a data set for examples that needs no download.

Every clip is synthesised from a random stream of its own, keyed by (seed, class, index): the same arguments give the
same samples, and asking for more clips does not change the earlier ones. Pitch, tempo, timbre, onset, length, level
and background all vary within a class, and their ranges overlap between classes, so that the classes differ in how a
sound evolves more than in how loud, long or bright it is.

    python examples/demo/sound_events.py FOLDER --clips_per_class 40 --seed 0
"""

import argparse
import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal
from tqdm import tqdm

RECIPE = 3  # Part of a corpus' stored parameters: raise it when the sounds change, and old corpora are rendered anew.
FOLDS = 5
DURATION_S = (1.5, 4.0)
PEAK_DBFS = (-28.0, -8.0, -3.0)  # lowest, most frequent and highest: corners of a triangular distribution
SNR_DB = (20.0, 40.0, 60.0)


# Toolbox


def db(level: float | np.ndarray) -> float | np.ndarray:
    """Amplitude factor of a level in dB."""
    return 10.0 ** (level / 20.0)


def unit(x: np.ndarray) -> np.ndarray:
    """Scale to a root mean square of one, so that parts are mixed by their power."""
    return x / np.sqrt(np.mean(x**2) + 1e-12)


def decay(t: np.ndarray, t60: float) -> np.ndarray:
    """Exponential envelope that has fallen by 60 dB after `t60` s."""
    return db(-60.0 * t / t60)


def fade(x: np.ndarray, edge: float = 0.1) -> np.ndarray:
    """Raised-cosine fade over the fraction `edge` of the sound at each end; 0.5 makes a rounded pulse."""
    return x * signal.windows.tukey(len(x), 2 * edge)


def weight_spectrum(x: np.ndarray, rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Multiply the spectrum by `gain`, a function of the frequency in Hz."""
    return np.fft.irfft(np.fft.rfft(x) * gain(np.fft.rfftfreq(len(x), 1 / rate)), len(x))


def band(x: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    """Keep `low` to `high` Hz (12 dB per octave outside)."""
    high = min(high, 0.49 * rate)
    edges = [min(low, 0.9 * high), high]  # a low sampling rate may leave no room for the band asked for
    return signal.sosfilt(signal.butter(2, edges, "band", fs=rate, output="sos"), x)


def resonate(x: np.ndarray, rate: int, frequency: float, t60: float) -> np.ndarray:
    """Two-pole resonance at `frequency` Hz that rings for `t60` s."""
    radius = db(-60.0 / (t60 * rate))
    angle = 2 * np.pi * min(frequency / rate, 0.45)
    return signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], x)


def harmonics(frequency: np.ndarray, rate: int, tilt: float, step: int = 1) -> np.ndarray:
    """Tone on a curve of `frequency` (Hz); harmonic k has amplitude k ** -tilt; `step` 2 leaves the odd ones only."""
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    tone = np.zeros_like(phase)
    for k in range(1, 42, step):
        if k * frequency.min() > rate / 2:
            break
        tone += np.where(k * frequency < rate / 2, k**-tilt * np.sin(k * phase), 0.0)  # what lies above would alias
    return tone


@dataclass(frozen=True)
class Scene:
    """What an event is drawn from: a random stream, the sampling rate (Hz) and the clip's length (samples)."""

    rng: np.random.Generator
    rate: int
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def octaves(self, low: float, high: float) -> float:
        """Log-uniform draw, for frequencies and time constants."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def time(self, seconds: float | None = None) -> np.ndarray:
        """Time axis in s, of the whole clip unless told."""
        return np.arange(self.samples if seconds is None else max(round(seconds * self.rate), 16)) / self.rate

    def noise(self, seconds: float | None = None, slope: float = 0.0) -> np.ndarray:
        """Noise with power 1 / f ** slope: 0 white, 1 pink, 2 brown."""
        white = self.rng.standard_normal(len(self.time(seconds)))
        return unit(weight_spectrum(white, self.rate, lambda f: np.maximum(f, 20.0) ** (-slope / 2)))

    def wander(self, t: np.ndarray, per_second: float) -> np.ndarray:
        """Slow random curve between 0 and 1 with about `per_second` turns a second."""
        knots = self.rng.uniform(0, 1, int(t[-1] * per_second) + 3)
        return np.interp(t * per_second + self.uniform(0, 1), np.arange(len(knots)), knots)

    def onsets(self, interval: float, jitter: float) -> np.ndarray:
        """Times (s) about `interval` s apart, from some point early in the clip to some point late in it."""
        start, stop = self.uniform(0, 0.25) * self.seconds, self.uniform(0.7, 1.0) * self.seconds
        regular = np.arange(start, stop, interval)
        return np.maximum(regular + interval * jitter * self.rng.uniform(-1, 1, len(regular)), 0)

    def place(self, onsets: np.ndarray, event: Callable[[], np.ndarray]) -> np.ndarray:
        """Add one `event()` per onset (s), each with a level of its own; what runs past the end is cut."""
        out = np.zeros(self.samples)
        for onset in np.round(onsets * self.rate).astype(int):
            sound = event()[: max(self.samples - onset, 0)]
            out[onset : onset + len(sound)] += sound * db(self.uniform(-6, 0))
        return out

    def span(self, x: np.ndarray) -> np.ndarray:
        """Let a continuous sound fade in and out at random times, as the repeated ones start and stop."""
        t, start, stop = self.time(), self.uniform(-0.3, 0.3), self.uniform(0.7, 1.3)
        ramp = self.uniform(0.05, 0.2)
        return x * np.interp(t / self.seconds, [start, start + ramp, stop - ramp, stop], [0, 1, 1, 0])


# Events: each returns a whole clip of any scale


def alarm_beeps(s: Scene) -> np.ndarray:
    length, tilt, step = s.octaves(0.08, 0.35), s.uniform(0.4, 1.2), int(s.rng.integers(1, 3))
    pitches = s.octaves(1600, 2800) * np.array([1.0, s.rng.choice([1.0, s.uniform(0.75, 1.3)])])
    onsets = s.onsets(length * s.uniform(1.1, 1.8), 0.0)
    turn = iter(np.resize(pitches, len(onsets)))
    return s.place(onsets, lambda: fade(harmonics(next(turn) + 0 * s.time(length), s.rate, tilt, step)))


def bell(s: Scene) -> np.ndarray:
    pitch, ring, soft = s.octaves(400, 1000), s.octaves(1.5, 5), s.uniform(0, 0.8)
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.66, 3.01, 4.1, 5.4]) * s.rng.uniform(0.97, 1.03, 9)
    levels = s.rng.uniform(0.2, 1, 9) * ratios**-soft

    def strike() -> np.ndarray:
        t = s.time(s.seconds)
        heard = [(r, a) for r, a in zip(ratios, levels, strict=True) if r * pitch < s.rate / 2]
        return sum(a * np.sin(2 * np.pi * r * pitch * t) * decay(t, ring / max(r, 1) ** 0.7) for r, a in heard)

    return s.place(s.onsets(s.octaves(0.3, 1.2), 0.1), strike)


def bird_chirps(s: Scene) -> np.ndarray:
    pitch, sweep, length = s.octaves(2400, 4200), s.uniform(-0.6, 0.6), s.octaves(0.04, 0.16)
    bend = s.uniform(0.5, 2)

    def chirp() -> np.ndarray:
        t = s.time(length * s.uniform(0.8, 1.2))
        octave = sweep * (t / t[-1]) ** bend + s.uniform(-0.15, 0.15)
        return fade(harmonics(pitch * 2**octave, s.rate, 3.0), 0.4)

    return s.place(s.onsets(length * s.uniform(1.2, 2.2), 0.15), chirp)


def cat_meow(s: Scene) -> np.ndarray:
    pitch, rise, tilt = s.octaves(400, 700), s.uniform(0.1, 0.6), s.uniform(0.1, 0.5)
    mouth = pitch * s.uniform(1.5, 4)

    def meow() -> np.ndarray:
        length = s.octaves(0.4, 1.1)
        t = s.time(length)
        arch = np.sin(np.pi * (t / t[-1]) ** s.uniform(0.6, 1.2))
        voice = harmonics(pitch * 2 ** (rise * arch + 0.02 * s.wander(t, 30)), s.rate, tilt)
        opened = unit(resonate(voice, s.rate, mouth, 0.01)) * arch + 0.3 * unit(voice)
        return fade(opened + s.uniform(0, 0.2) * s.noise(length), 0.2)

    return s.place(s.onsets(s.octaves(0.8, 1.4), 0.2), meow)


def clock_ticks(s: Scene) -> np.ndarray:
    pitch, ring, low = s.octaves(1800, 5000), s.octaves(0.06, 0.2), s.uniform(0.6, 1)
    onsets = s.onsets(s.octaves(0.1, 0.4), 0.0)
    turn = iter(np.resize([1.0, low], len(onsets)))  # tick and tock

    def tick() -> np.ndarray:
        t = s.time(0.2)
        click, tone = s.noise(0.2) * decay(t, 0.04), pitch * next(turn)
        return sum(resonate(click, s.rate, tone * r, ring) for r in (1.0, 1.73)) + 0.1 * click

    return s.place(onsets, tick)


def cricket(s: Scene) -> np.ndarray:
    pitch, pulse, pulses = s.octaves(3600, 5500), s.octaves(0.012, 0.035), int(s.rng.integers(2, 9))
    duty, tilt = s.uniform(0.5, 0.9), s.uniform(1.5, 3)

    def chirp() -> np.ndarray:
        t = s.time(pulse * duty)
        syllable = fade(harmonics(pitch * (1 - 0.05 * t / t[-1]), s.rate, tilt), 0.4)
        train = np.zeros((pulses, round(pulse * s.rate)))
        train[:, : len(syllable)] = syllable
        return (train * np.linspace(0.5, 1, pulses)[:, None]).ravel()

    return s.place(s.onsets(pulse * pulses * s.uniform(1.1, 2), 0.05), chirp)


def dog_bark(s: Scene) -> np.ndarray:
    pitch, rough, tilt = s.octaves(250, 500), s.uniform(0.1, 0.8), s.uniform(0.3, 1.0)
    length, throats = s.octaves(0.09, 0.25), pitch * np.array([s.uniform(1.5, 3), s.uniform(3, 6)])

    def bark() -> np.ndarray:
        x = np.linspace(0, 1, len(s.time(length)))
        voice = harmonics(pitch * s.uniform(0.9, 1.1) * 2 ** (0.5 * np.sin(np.pi * x) - 0.6 * x), s.rate, tilt)
        source = unit(voice) + rough * s.noise(length)
        return fade(sum(unit(resonate(source, s.rate, f, 0.012)) for f in throats) * decay(x, 3), 0.15)

    return s.place(s.onsets(s.octaves(0.25, 0.6), 0.25), bark)


def engine(s: Scene) -> np.ndarray:
    t, pitch = s.time(), s.octaves(30, 90)
    revs = pitch * 2 ** (s.uniform(0, 1.2) * s.wander(t, s.uniform(0.3, 1.5)) + 0.08 * s.wander(t, 25))
    hum = unit(harmonics(revs, s.rate, s.uniform(0.1, 1.0)))
    exhaust = s.noise(slope=s.uniform(0, 1.5)) * (1 + np.sin(2 * np.pi * np.cumsum(revs) / s.rate))
    pipe = resonate(hum, s.rate, s.octaves(150, 1500), s.octaves(0.005, 0.03))
    return s.span(s.uniform(0.2, 1) * hum + unit(pipe) + s.uniform(0.1, 0.8) * unit(exhaust))


def footsteps(s: Scene) -> np.ndarray:
    thump, scuff, gap = s.octaves(70, 220), s.octaves(700, 3000), s.uniform(0.05, 0.14)
    sole, grit = s.octaves(0.03, 0.12), s.uniform(0.2, 1)

    def step() -> np.ndarray:
        t = s.time(0.35)
        heel = resonate(s.noise(0.35) * decay(t, 0.02), s.rate, thump * s.uniform(0.85, 1.15), sole)
        toe = band(s.noise(0.35), s.rate, scuff, 3 * scuff) * decay(np.abs(t - gap), s.uniform(0.08, 0.25))
        return heel / np.abs(heel).max() + grit * toe / np.abs(toe).max()

    return s.place(s.onsets(s.octaves(0.28, 0.7), 0.08), step)


def glass_break(s: Scene) -> np.ndarray:
    pitch, spread, ring = s.octaves(2000, 4000), s.uniform(0.1, 0.5), s.octaves(0.08, 0.5)

    def shard() -> np.ndarray:
        t, tone = s.time(ring), min(pitch * s.octaves(0.6, 3), 0.49 * s.rate)
        return np.sin(2 * np.pi * tone * t) * decay(t, ring * s.uniform(0.3, 1))

    start, t = s.uniform(0, 0.5) * s.seconds, s.time(0.4)
    crash = band(s.noise(0.4), s.rate, s.octaves(200, 1500), 0.4 * s.rate) * decay(t, s.octaves(0.1, 0.4))
    falling = s.place(start + s.rng.exponential(spread, int(s.rng.integers(12, 45))), shard)
    return falling + s.place(np.array([start]), lambda: s.uniform(0.3, 1) * crash)


def knocking(s: Scene) -> np.ndarray:
    panel, ring = s.octaves(150, 600), s.octaves(0.08, 0.3)
    modes = panel * np.array([1, s.uniform(1.4, 1.9), s.uniform(2.2, 3.5)])

    def knock() -> np.ndarray:
        hit = s.noise(0.3) * decay(s.time(0.3), 0.008)
        return sum(resonate(hit, s.rate, f, ring) for f in modes)

    series = np.arange(s.rng.integers(2, 6)) * s.octaves(0.12, 0.3)
    starts = s.onsets(series[-1] + s.uniform(0.5, 1.2), 0.05)
    return s.place((starts[:, None] + series).ravel(), knock)


def plucked_string(s: Scene) -> np.ndarray:
    root, loss, steps = s.octaves(100, 300), db(-s.octaves(0.01, 0.06)), s.rng.integers(0, 13, 4)

    def pluck() -> np.ndarray:
        period = round(s.rate / (root * 2 ** (s.rng.choice(steps) / 12)))
        burst = np.zeros(len(s.time(1.5)))
        burst[:period] = s.rng.uniform(-1, 1, period)
        # Karplus-Strong: a delay line as long as the period, with a two-point average as its loss.
        return signal.lfilter([1.0], np.concatenate(([1.0], np.zeros(period - 1), [-loss / 2, -loss / 2])), burst)

    return s.place(s.onsets(s.octaves(0.18, 0.8), 0.05), pluck)


def rain(s: Scene) -> np.ndarray:
    hiss = s.noise(slope=s.uniform(-0.2, 0.5)) * (0.8 + 0.2 * s.wander(s.time(), 4))
    drops = np.zeros(s.samples)
    for _ in range(4):  # surfaces
        hits = s.rng.random(s.samples) < s.octaves(20, 200) / s.rate
        drops += resonate(hits * s.rng.exponential(1, s.samples), s.rate, s.octaves(500, 5000), s.octaves(0.005, 0.03))
    return s.span(hiss + s.uniform(0.5, 1.5) * unit(drops))


def sea_waves(s: Scene) -> np.ndarray:
    t, low = s.time(), s.octaves(200, 1200)
    swell = np.sin(np.pi * (t * s.uniform(0.25, 0.7) + s.uniform(0, 1))) ** 2
    roar, foam = band(s.noise(), s.rate, 0.2 * low, low), band(s.noise(), s.rate, low, 0.45 * s.rate)
    return unit(roar) * (0.2 + swell) + s.uniform(0.2, 1.2) * unit(foam) * swell ** s.uniform(1.5, 3)


def siren(s: Scene) -> np.ndarray:
    t, pitch, width = s.time(), s.octaves(500, 850), s.uniform(0.4, 1.2)
    cycle = (t * s.octaves(0.3, 4) + s.uniform(0, 1)) % 1
    peak = s.uniform(0.1, 0.9)
    octave = width * np.interp(cycle, [0, peak, 1], [0, 1, 0])
    return s.span(harmonics(pitch * 2**octave, s.rate, s.uniform(1, 2.5), int(s.rng.integers(1, 3))))


def telephone_ring(s: Scene) -> np.ndarray:
    pitch, second, warble = s.octaves(900, 1700), s.uniform(1.1, 1.6), s.octaves(14, 30)
    length, depth, tilt = s.uniform(0.35, 1.2), s.uniform(0.5, 1), s.uniform(1.5, 3)

    def ring() -> np.ndarray:
        t = s.time(length)
        beat = signal.square(2 * np.pi * warble * t)  # the clapper runs between two gongs
        first, other = (harmonics(pitch * r + 0 * t, s.rate, tilt) for r in (1, second))
        return fade(first * (1 + depth * beat) + other * (1 - depth * beat), 0.03)

    return s.place(s.onsets(length + s.octaves(0.15, 0.6), 0.0), ring)


def whistled_tune(s: Scene) -> np.ndarray:
    t, tempo = s.time(), s.uniform(2, 6)
    notes = s.rng.integers(-7, 8, int(s.seconds * tempo) + 2) / 12
    steps = notes[(t * tempo).astype(int)]
    lag = db(-60 / (0.1 * s.rate))  # a note is reached within about 0.1 s
    glide = signal.lfilter([1 - lag], [1, -lag], steps)
    vibrato = s.uniform(0, 0.04) * np.sin(2 * np.pi * s.uniform(4, 7) * t)
    tone = harmonics(s.octaves(1000, 1800) * 2 ** (glide + vibrato), s.rate, s.uniform(2, 4))
    return s.span(tone * (0.3 + np.abs(np.sin(np.pi * t * tempo))) + s.uniform(0.05, 0.3) * s.noise(slope=1))


def wind(s: Scene) -> np.ndarray:
    t, howl = s.time(), s.octaves(150, 500)
    gusts = [s.wander(t, s.uniform(0.5, 2.5)) ** 2 for _ in range(3)]
    bands = [unit(band(s.noise(slope=1), s.rate, howl * r, howl * r * 1.6)) for r in (0.4, 1.0, 2.2)]
    return s.span(sum(g * b for g, b in zip(gusts, bands, strict=True)) + 0.3 * s.noise(slope=1.5))


EVENTS: dict[str, Callable[[Scene], np.ndarray]] = {
    event.__name__: event
    for event in (
        *(alarm_beeps, bell, bird_chirps, cat_meow, clock_ticks, cricket, dog_bark, engine, footsteps),
        *(glass_break, knocking, plucked_string, rain, sea_waves, siren, telephone_ring, whistled_tune, wind),
    )
}
CLASSES: tuple[str, ...] = tuple(sorted(EVENTS))


# Recording: what happens to every event alike


def background(s: Scene) -> np.ndarray:
    """Steady noise of a random kind, at a root mean square of one."""
    kind = s.rng.choice(["coloured", "hum", "band"])
    if kind == "coloured":
        return s.noise(slope=s.uniform(0.5, 1.5))
    low = s.octaves(100, 3000)
    if kind == "hum":
        extra = harmonics(s.rng.choice([50.0, 60.0]) + 0 * s.time(), s.rate, s.uniform(0.5, 2))
    else:
        extra = band(s.noise(), s.rate, low, low * s.uniform(2, 5))
    return unit(s.noise(slope=1) + s.uniform(0.3, 1.5) * unit(extra))


def render_event(label: str, seed: int, index: int, sampling_rate: int = 16_000) -> np.ndarray:
    """Render clip `index` of class `label`: float32 (samples,), mono, 1.5 to 4 s, peak -28 to -3 dBFS."""
    if label not in EVENTS:
        raise ValueError(f"Unknown label {label!r}; the classes are {', '.join(CLASSES)}.")
    rng = np.random.default_rng([seed, CLASSES.index(label), index])
    # Whole hundredths of a second keep the transform lengths free of large primes, which would be slow.
    scene = Scene(rng, sampling_rate, round(round(rng.uniform(*DURATION_S), 2) * sampling_rate))
    clip = unit(EVENTS[label](scene)) + background(scene) * db(-scene.rng.triangular(*SNR_DB))
    return (clip / np.abs(clip).max() * db(scene.rng.triangular(*PEAK_DBFS))).astype(np.float32)


def write_corpus(folder: Path, clips_per_class: int = 40, seed: int = 0, sampling_rate: int = 16_000) -> Path:
    """Write `clips_per_class` clips of every class to `folder` and return it.

    The clips are 16-bit FLAC files, `audio/<label>/<label>-<index>.flac`. `metadata.csv` lists them with their label,
    their fold (1 to 5) and their duration in s; it is written last, so a folder that has it is complete. A complete
    corpus with the same parameters (`corpus.json`) is left as it is; any other clips of these classes are replaced.
    """
    if clips_per_class < 1:
        raise ValueError(f"clips_per_class must be at least 1, not {clips_per_class}.")
    folder = Path(folder)
    metadata, settings = folder / "metadata.csv", folder / "corpus.json"
    parameters = {"recipe": RECIPE, "clips_per_class": clips_per_class, "seed": seed, "sampling_rate": sampling_rate}
    if metadata.exists() and settings.exists() and json.loads(settings.read_text()) == parameters:
        return folder

    metadata.unlink(missing_ok=True)
    for label in CLASSES:
        (folder / "audio" / label).mkdir(parents=True, exist_ok=True)
        for stale in (folder / "audio" / label).glob(f"{label}-*.flac"):
            stale.unlink()
    settings.write_text(json.dumps(parameters, indent=2) + "\n")

    rows = []
    clips = [(label, index) for label in CLASSES for index in range(clips_per_class)]
    for label, index in tqdm(clips, desc="sound events", unit="clip"):
        clip = render_event(label, seed, index, sampling_rate)
        name = f"audio/{label}/{label}-{index:03d}.flac"
        soundfile.write(folder / name, clip, sampling_rate, subtype="PCM_16")
        rows.append((name, label, index % FOLDS + 1, f"{len(clip) / sampling_rate:.2f}"))

    partial = metadata.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "label", "fold", "duration_s"))
        writer.writerows(rows)
    os.replace(partial, metadata)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Render a corpus of synthetic sound events to FLAC files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips_per_class", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampling_rate", type=int, default=16_000, help="in Hz")
    folder = write_corpus(**vars(parser.parse_args()))
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        durations = [float(row["duration_s"]) for row in csv.DictReader(file)]
    print(f"{folder}: {len(durations)} clips of {len(CLASSES)} classes, {sum(durations) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
