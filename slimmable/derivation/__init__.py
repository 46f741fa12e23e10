"""Derive the width spec of any network from its traced graph."""
