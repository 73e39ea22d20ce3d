"""What prompts stand beside: other answers to "where", a linear probe, and full fine-tuning."""

FILE = "baseline.safetensors"  # in a run's folder: what a probe or a fine-tuning learned
