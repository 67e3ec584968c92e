"""What a model would say had it never known a subject: teachers made by changing names in texts."""
