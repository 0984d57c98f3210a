"""A folder per model, as in transformers; and the conversion of other projects' checkpoints."""
