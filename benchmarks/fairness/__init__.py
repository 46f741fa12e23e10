"""Fair rewards against six other ways to reward, on three data sets: ``make experiments``."""
