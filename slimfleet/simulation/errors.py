"""What ends a simulation."""


class SimulationError(ValueError):
    """A simulation cannot go on, or cannot start. The message says what to change."""
