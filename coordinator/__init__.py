"""Who trains at what width, what was it worth, what does it earn? Rounds and rewards."""
