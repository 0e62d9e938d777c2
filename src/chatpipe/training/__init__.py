"""QLoRA fine-tuning: trainer, checkpoints, adapter files, model card."""
