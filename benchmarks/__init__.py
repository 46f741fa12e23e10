"""Measurements of Slimfleet. Each prints figures beside a limit that it measured in the same run."""
