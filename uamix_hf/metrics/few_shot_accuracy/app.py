"""The metric as a page: a table of classified clips in, metrics out."""

from pathlib import Path

import evaluate
import gradio

# Not evaluate's own launch_gradio_widget: it uses what gradio 4 removed.
EXAMPLE = [[0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]]
metric = evaluate.load(str(Path(__file__).with_name("few_shot_accuracy.py")))
columns = list(metric.features)


def compute(rows: list[list]) -> dict:
    """Result for rows in the order of the columns; rows with an empty cell are left out."""
    filled = [[int(cell) for cell in row] for row in rows if all(cell not in ("", None) for cell in row)]
    return metric.compute(**{name: [row[place] for row in filled] for place, name in enumerate(columns)})


gradio.Interface(
    fn=compute,
    inputs=gradio.Dataframe(value=EXAMPLE, headers=columns, datatype="number", type="array"),
    outputs=gradio.JSON(),
    title="Few-shot accuracy",
    description=metric.description,
).launch()
