"""Unlearning methods: change the weights, intervene on activations, guard the inputs."""
