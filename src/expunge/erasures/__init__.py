"""What methods leave behind: saved, loaded, applied, lifted."""
