"""Compare attentions in one layout, and whole models: counts, speed, accuracy."""
