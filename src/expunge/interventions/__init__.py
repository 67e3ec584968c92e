"""What is done to a model while it runs: neurons adjusted or silenced, keys recognised and answered with a refusal."""
