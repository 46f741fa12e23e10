"""Whole campaigns in one machine: the fleet's own code on a virtual clock, with real training."""
