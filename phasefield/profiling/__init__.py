"""What `profile` measures."""
