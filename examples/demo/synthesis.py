"""Parts that sounds are made of: envelopes, filters, tones, noise, and the scene that draws them at random."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal


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
