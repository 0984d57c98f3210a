"""The metric as a page: a table of scores and one of references in, metrics out."""

from pathlib import Path

import evaluate
import gradio

# Not evaluate's own launch_gradio_widget: it uses what gradio 4 removed.
SCORES = [[0.9, 0.1], [0.8, 0.7], [0.2, 0.6]]
REFERENCES = [[1, 0], [0, 1], [1, 1]]
metric = evaluate.load(str(Path(__file__).with_name("mean_average_precision.py")))


def compute(scores: list[list], references: list[list]) -> dict:
    """Result for a row of each table per clip, a column per class; clips with an empty cell in either are left out."""
    clips = zip(scores, references, strict=True)
    filled = [rows for rows in clips if all(cell not in ("", None) for row in rows for cell in row)]
    predictions, labels = ([[float(cell) for cell in row[place]] for row in filled] for place in (0, 1))
    return metric.compute(predictions=predictions, references=labels)


gradio.Interface(
    fn=compute,
    inputs=[
        gradio.Dataframe(value=SCORES, label="scores", datatype="number", type="array"),
        gradio.Dataframe(value=REFERENCES, label="references", datatype="number", type="array"),
    ],
    outputs=gradio.JSON(),
    title="Mean average precision",
    description=metric.description,
).launch()
