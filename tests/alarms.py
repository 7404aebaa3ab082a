"""How often the noise meter accuses an honest run by chance, in tests."""

# a session verifies some hundred runs whose noise is drawn anew: at the product's 1e-3 each, one session in ten fails
LEVEL = 1e-9


def alarm_less() -> None:
    """Noise that is missing is found at any level; how the tests of noise behave at their own is tested by itself."""
    from experiments.verification import meter, run

    meter.METER_LEVEL = run.METER_LEVEL = LEVEL
