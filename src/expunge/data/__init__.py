"""Text to tensors: chat templates, answer masks, batches."""
