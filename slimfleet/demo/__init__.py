"""The demonstration: a whole fleet on one machine, on real data, over a real broker."""
