"""What a model's activations are like over texts: one streaming pass, statistics of every site, saved and reused."""
