from .cards import CardEvaluation, base_licence, fine_tuned_card, placed_at, tuned_card
from .export import export_encoder
from .push import published_files, push_folder, push_metric

__all__ = [
    "CardEvaluation",
    "base_licence",
    "export_encoder",
    "fine_tuned_card",
    "placed_at",
    "published_files",
    "push_folder",
    "push_metric",
    "tuned_card",
]
