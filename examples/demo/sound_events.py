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
from pathlib import Path

import numpy as np
import soundfile
from event_classes import CLASSES, EVENTS
from synthesis import Scene, band, db, harmonics, unit
from tqdm import tqdm

RECIPE = 3  # Part of a corpus' stored parameters: raise it when the sounds change, and old corpora are rendered anew.
FOLDS = 5
DURATION_S = (1.5, 4.0)
PEAK_DBFS = (-28.0, -8.0, -3.0)  # lowest, most frequent and highest: corners of a triangular distribution
SNR_DB = (20.0, 40.0, 60.0)


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
