"""What prompts stand beside: other answers to "where", a linear probe, and full fine-tuning."""
