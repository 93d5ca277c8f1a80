"""What `ablate` does."""
