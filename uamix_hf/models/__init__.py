"""Models, one folder each as in transformers, and the conversion of other projects' checkpoints."""
