"""What phase_linear and phase_matmul ask of their arguments alike."""

ALGORITHMS = ("direct", "gauss")


def algorithm_named(name: str) -> None:
    """Raise unless it is one of the algorithms."""
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm is {name!r}; allowed are {', '.join(ALGORITHMS)}.")
