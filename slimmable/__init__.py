"""What is a network whose width is a knob? Width grid, width spec, slices, training, models.

Importing this package, or any module of it that is not named in its docstring as a torch module,
never imports torch: a device that only infers has none.
"""
