from .cards import CardEvaluation, base_licence, fine_tuned_card, placed_at, tuned_card
from .export import export_encoder
from .graphs import export_onnx, export_program
from .log_mel_graph import NotExportableError
from .push import published_files, push_folder, push_metric

__all__ = [
    "CardEvaluation",
    "NotExportableError",
    "base_licence",
    "export_encoder",
    "export_onnx",
    "export_program",
    "fine_tuned_card",
    "placed_at",
    "published_files",
    "push_folder",
    "push_metric",
    "tuned_card",
]
