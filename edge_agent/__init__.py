"""What does a device do with each message? Session, trainer, model slots, inference, outbox.

Importing this package imports neither torch nor ONNX Runtime. An application that only wants the
device's current model needs three lines::

    from edge_agent import Predictor
    predictor = Predictor("/var/lib/slimfleet/agent", auto_reload=True)
    answer = predictor.predict(x)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.answers import Measurement, Prediction
    from edge_agent.inference import ClosedError, Predictor
    from edge_agent.runtime import InferenceError, InputError, ModelFileError, NoModelError

__all__ = [
    "ClosedError",
    "InferenceError",
    "InputError",
    "Measurement",
    "ModelFileError",
    "NoModelError",
    "Prediction",
    "Predictor",
]


def __getattr__(name: str) -> Any:
    """Load inference on first use, so that importing a module of this package stays cheap."""
    if name in __all__:
        from edge_agent import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
