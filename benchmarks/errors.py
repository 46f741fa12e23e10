"""Why a benchmark gave no figures."""


class BenchmarkError(Exception):
    """Something could not be measured. The message says what failed and what to do."""
