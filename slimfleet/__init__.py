"""The command line of Slimfleet, and whatever needs several rooms at once."""

__version__ = "0.1.0"
