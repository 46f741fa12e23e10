"""The errors of an export, named by remedy.

::

    ExportError
      TemplateError    the network cannot be traced: mend the model
      InjectionError   weights and template do not belong together: do not release
      ParityError      the file does not compute what torch computes: do not release; alert
      CheckpointError  a file of weights or samples is not what it should be: supply another
"""


class ExportError(Exception):
    """A sub-model cannot be exported. Nothing was written; the model in use stays."""


class TemplateError(ExportError):
    """The network cannot be turned into an ONNX graph. Mend the line of the model it names."""


class InjectionError(ExportError):
    """Weights and template do not belong together. Check that both are of one model and width."""


class ParityError(ExportError):
    """The ONNX file does not compute what torch computes. Do not release it; report it."""


class CheckpointError(ExportError):
    """A file of weights or samples cannot be used. Supply the file that the message describes."""
