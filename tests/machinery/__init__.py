"""What tests of every op stand on: the corrected interpreter, poisoned memory, comparison with the oracle."""
