"""A worker process of a simulation: ``python -m slimfleet.simulation.worker cuda:1``.

It is the training process of a real device, on the torch device that its argument names. It trains
for many devices in turn, so it keeps the samples of several.
"""

import sys

from edge_agent import trainer
from slimfleet.simulation.workers import KEEP_BYTES
from slimmable.torch_device import computing_on


def main() -> None:
    """Serve commands until standard input ends."""
    with computing_on(sys.argv[1]):
        trainer.main(KEEP_BYTES)


if __name__ == "__main__":
    main()
