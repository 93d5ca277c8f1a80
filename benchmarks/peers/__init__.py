"""Other implementations of the ops; each proves that it computes the same before it is timed."""
