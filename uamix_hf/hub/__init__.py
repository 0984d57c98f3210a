"""What surrounds weights on the Hugging Face Hub: model cards and uploads."""
