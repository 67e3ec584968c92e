"""Methods that guard the inputs, one file each."""
