"""Networks as their users write them: nothing in here knows that it will be sliced.

Beside every network stands a function ``native_...(shapes)`` that builds the same network with the
lengths that a width keeps, so that a sub-model can be compared with a network built at that width.
"""

from collections.abc import Callable

# Name of a parameter or buffer -> its shape at the width that is built.
Shapes = Callable[[str], tuple[int, ...]]
