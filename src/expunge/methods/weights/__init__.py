"""Methods that change weights, one file each."""
