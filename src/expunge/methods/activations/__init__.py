"""Methods that intervene on activations, one file each."""
