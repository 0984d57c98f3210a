"""Page on which a few clips per class make a classifier of sounds:

python examples/few_shot_app/app.py --model_name_or_path model_cards/uamix-whisper-tiny.en
"""

import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from charts import draw_map, draw_windows
from transformers import HfArgumentParser

from uamix_hf import AudioEmbedder, AudioInputError, load_audio
from uamix_hf.fine_tuning import FewClipsClassifier

NEIGHBOURS = 3
HOW_TO_LOAD = """Download, unzip, and in Python:
`import uamix_hf, transformers; transformers.pipeline("audio-classification", model="classifier")`"""
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # the reader's own: nothing is fetched
Classes = dict[str, list[str]]


class PageInputError(ValueError):
    """Something missing or unreadable that the reader gave; the page shows the message."""


def shipped_encoder() -> str:
    """Folder `encoder` beside this file, as a Space has it, or that of the clone."""
    beside = Path(__file__).parent / "encoder"
    return str(beside if beside.is_dir() else Path(__file__).parents[2] / "model_cards" / "uamix-whisper-tiny.en")


@dataclass
class PageArguments:
    model_name_or_path: str = field(
        default_factory=shipped_encoder, metadata={"help": "Encoder: folder or Hub repository."}
    )
    server_port: int = field(default=7860, metadata={"help": "Port of the page."})


def read_clip(path: str, sampling_rate: int) -> np.ndarray:
    """Samples of an uploaded file; errors give its name, not the folder that it was uploaded to."""
    try:
        return load_audio(path, sampling_rate)
    except AudioInputError as error:
        raise PageInputError(str(error).replace(path, Path(path).name)) from error


def add_clips(classes: Classes, name: str, files: list[str] | None, recording: str | None, rate: int) -> Classes:
    """Classes with more clips, each of which can be read."""
    given = [*(files or []), *([recording] if recording else [])]
    if not name.strip() or not given:
        raise PageInputError("Give the class a name, and one clip or more.")
    for path in given:
        read_clip(path, rate)
    return classes | {name.strip(): [*classes.get(name.strip(), []), *given]}


def listed(classes: Classes) -> list[list[Any]]:
    return [[name, len(paths), ", ".join(Path(path).name for path in paths)] for name, paths in classes.items()]


def export(classifier: FewClipsClassifier | None) -> str:
    """Path of a zip file of the folder `classifier`, for `pipeline("audio-classification")`."""
    if classifier is None:
        raise PageInputError("Train a classifier first.")
    with tempfile.TemporaryDirectory() as folder:
        classifier.save_pretrained(Path(folder) / "classifier")
        return shutil.make_archive(str(Path(tempfile.mkdtemp()) / "classifier"), "zip", folder, "classifier")


def make_page(embedder: AudioEmbedder) -> Any:
    """The page, `gradio.Blocks`, for one encoder."""
    import gradio as gr

    rate = embedder.feature_extractor.sampling_rate

    def connect(button: Any, function: Callable[..., list[Any]], inputs: list[Any], outputs: list[Any]) -> None:
        """Calls a function at a click; errors of input are shown beside the page, which stays as it was."""

        @functools.wraps(function)
        def call(*values: Any) -> Any:
            try:
                return function(*values)
            except PageInputError as error:
                gr.Warning(str(error), duration=None)
                return [gr.skip()] * len(outputs)

        button.click(call, inputs, outputs)

    def add(*values: Any) -> list[Any]:
        classes = add_clips(*values, rate)
        return [classes, listed(classes), "", None, None, None, "Train to use these clips.", None]

    def clear() -> list[Any]:
        return [{}, [], None, "", None]

    def train(classes: Classes) -> list[Any]:
        if len(classes) < 2:
            raise PageInputError("Give clips of two classes or more.")
        classifier = FewClipsClassifier(embedder, classes)
        return [classifier, f"Trained on {len(classifier.sources)} clips of {len(classes)} classes.", None]

    def classify(classifier: FewClipsClassifier | None, clip: str | None) -> list[Any]:
        if classifier is None or clip is None:
            raise PageInputError("Train a classifier and give a clip first.")
        samples = read_clip(clip, rate)
        prediction = classifier.predict(samples)
        nearest: list[Any] = [
            gr.Audio(one.source, label=f"{one.label} ({one.similarity:.2f}): {Path(one.source).name}", visible=True)
            for one in prediction.neighbours[:NEIGHBOURS]
        ]
        nearest += [gr.Audio(visible=False)] * (NEIGHBOURS - len(nearest))
        windows = draw_windows(samples, rate, prediction)
        return [prediction.probabilities, windows, draw_map(classifier, prediction), *nearest]

    def save(classifier: FewClipsClassifier | None) -> list[Any]:
        return [HOW_TO_LOAD, gr.File(export(classifier), visible=True)]

    with gr.Blocks(title="Few-shot sounds", analytics_enabled=False) as page:
        classes, classifier = gr.State({}), gr.State(None)
        gr.Markdown("# Few-shot sounds\nName two classes or more, give each a few clips, and see what new clips are.")
        with gr.Row():
            with gr.Column():
                gr.Markdown("### 1. Clips of a class")
                name = gr.Textbox(label="Name of the class", placeholder="siren")
                files = gr.File(label="Clips", file_count="multiple", type="filepath", height=140)
                recording = gr.Audio(label="Or record one", sources=["microphone"], type="filepath", buttons=[])
                add_button = gr.Button("Add clips")
            with gr.Column():
                gr.Markdown("### 2. Classifier")
                table = gr.Dataframe(headers=["class", "clips", "files"], label="Classes", interactive=False,
                                     column_widths=["25%", "15%", "60%"], wrap=True)  # fmt: skip
                with gr.Row():
                    clear_button = gr.Button("Remove all")
                    train_button = gr.Button("Train", variant="primary")
                status = gr.Markdown()
                save_button = gr.Button("Export classifier")
                exported = gr.File(label="Folder for transformers' audio-classification", visible=False, height=80)
        gr.Markdown("### 3. New clips")
        with gr.Row(equal_height=True):
            with gr.Column():
                clip = gr.Audio(label="New clip", type="filepath", buttons=["download"])
                classify_button = gr.Button("Classify", variant="primary")
            answer = gr.Label(label="Class")
        with gr.Row():
            with gr.Column(scale=7):
                windows = gr.Plot(show_label=False)
            with gr.Column(scale=5):
                chart = gr.Plot(show_label=False)
        gr.Markdown("Nearest labelled clips (cosine similarity)")
        with gr.Row():
            nearest = [gr.Audio(visible=False, interactive=False, buttons=["download"]) for _ in range(NEIGHBOURS)]
        given, made = [name, files, recording], [classifier, status, exported]
        connect(add_button, add, [classes, *given], [classes, table, *given, *made])
        connect(clear_button, clear, [], [classes, table, *made])
        connect(train_button, train, [classes], made)
        connect(save_button, save, [classifier], [status, exported])
        connect(classify_button, classify, [classifier, clip], [answer, windows, chart, *nearest])
    return page


def launch(page: Any, server_port: int, **options: Any) -> Any:
    """Serves the page, with the fonts of the reader's system; returns what `gradio.Blocks.launch` does."""
    import gradio as gr

    sans, mono = FONTS
    return page.launch(
        server_port=server_port, theme=gr.themes.Soft(font=sans, font_mono=mono), footer_links=[], **options
    )


def main() -> None:
    (args,) = HfArgumentParser(PageArguments).parse_args_into_dataclasses()
    launch(make_page(AudioEmbedder.from_pretrained(args.model_name_or_path)), args.server_port)


if __name__ == "__main__":
    main()
