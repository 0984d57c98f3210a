"""The classes of sound events: each function returns a whole clip of any scale."""

from collections.abc import Callable

import numpy as np
from scipy import signal
from synthesis import Scene, band, db, decay, fade, harmonics, resonate, unit


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
