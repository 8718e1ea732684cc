"""How rare an error may be for a number of trials to measure it."""

# The rule of three: n trials without an error only show (at 95 %) that the rate is below 3 / n.
MINIMUM_EXPECTED_FALSE_ACCEPTS = 3


def far_is_carried(far: float, impostors: int) -> bool:
    """Whether impostor comparisons are enough to estimate a FAR: at least 3 false accepts must be expected.

    With LFW's 3,000 impostor pairs that is FAR >= 1e-3.
    """
    return far * impostors >= MINIMUM_EXPECTED_FALSE_ACCEPTS * (1 - 1e-9)


def rate_label(rate: float) -> str:
    """A rate as names of figures have it: 0.001 is 1e-3."""
    return f"{rate:.0e}".replace("e-0", "e-")
