"""What the page shows of a decision: the windows of a clip, and a map of the embeddings."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from uamix_hf.fine_tuning import FewClipsClassifier, Prediction

FLOOR = 1e-5  # -100 dB: digital silence has no logarithm


def colors(names: list[str]) -> dict[str, tuple]:
    """The colour of each class, the same in all charts."""
    return {name: colormaps["tab10"](number % 10) for number, name in enumerate(names)}


def draw_windows(samples: np.ndarray, sampling_rate: int, prediction: Prediction) -> Figure:
    """Spectrogram of a clip, and below it the probabilities of its windows, in the colour of the class that wins."""
    color, seconds = colors(list(prediction.probabilities)), len(samples) / sampling_rate
    figure = Figure(figsize=(7, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    size = min(512, len(samples))
    noise = FLOOR * np.random.default_rng(0).standard_normal(len(samples))
    above.specgram(samples + noise, NFFT=size, Fs=sampling_rate, noverlap=size * 3 // 4, cmap="magma")
    above.set(ylabel="Frequency (Hz)", title="Spectrogram, and what each window is")
    times = np.array([(window.start + window.end) / 2 for window in prediction.windows])
    edges = [0.0, *(times[1:] + times[:-1]) / 2, seconds]
    for begin, end, window in zip(edges[:-1], edges[1:], prediction.windows, strict=True):
        winner = max(window.probabilities, key=window.probabilities.__getitem__)
        below.axvspan(begin, end, color=color[winner], alpha=0.2, linewidth=0)
    for name, one in color.items():
        below.plot(times, [window.probabilities[name] for window in prediction.windows], "o-", color=one, label=name)
    below.set(xlabel="Time (s)", ylabel="Probability", ylim=(-0.05, 1.05), xlim=(0, seconds))
    below.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def draw_map(classifier: FewClipsClassifier, prediction: Prediction) -> Figure:
    """Labelled clips and the new one in the first two principal components of their embeddings."""
    flat = PCA(2).fit_transform(np.concatenate([classifier.vectors, prediction.embedding[None]]))
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    for number, (name, color) in enumerate(colors(classifier.classes).items()):
        axis.scatter(*flat[:-1][classifier.labels == number].T, s=60, color=color, label=name)
    axis.scatter(*flat[-1], marker="*", s=250, color="black", label="new clip")
    axis.set(xlabel="First component", ylabel="Second component", title="Map of the embeddings")
    axis.legend(fontsize=9)
    return figure


__all__ = ["draw_map", "draw_windows"]
