"""Pictures of embeddings; needs matplotlib (`pip install uamix_hf[demo]`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize


def plot_embeddings(
    path: str | Path, vectors: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], seed: int = 0
) -> None:
    """A map of the clips (t-SNE by cosine) for each model, side by side, one colour a class.

    Args:
        vectors: Embeddings (clips, width) by the title of their map. labels: Class numbers (clips,). names: Of classes.
    """
    import matplotlib

    matplotlib.use("Agg")  # a picture for a file needs no screen
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(vectors), figsize=(6.5 * len(vectors), 6.5), layout="constrained", squeeze=False
    )
    colours = pyplot.get_cmap("tab20")
    for axis, (title, points) in zip(axes[0], vectors.items(), strict=True):
        unit = normalize(points - points.mean(axis=0))
        perplexity = min(30.0, (len(points) - 1) / 3)
        flat = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(unit)
        for number, name in enumerate(names):
            chosen = flat[labels == number]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=18, color=colours(number % 20), label=name, linewidths=0)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=min(6, len(names)), frameon=False, markerscale=1.5)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


__all__ = ["plot_embeddings"]
