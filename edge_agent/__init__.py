"""What does a device do with each message? Session, trainer, model slots, inference, outbox.

Importing this package imports neither torch nor ONNX Runtime. An application that only wants the
device's current model needs two lines::

    from edge_agent import Predictor
    predictor = Predictor("/var/lib/slimfleet/agent")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.inference import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """Load `Predictor` on first use, so that importing a module of this package stays cheap."""
    if name == "Predictor":
        from edge_agent.inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
