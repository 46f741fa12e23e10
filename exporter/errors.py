"""The errors of an export, named by remedy.

::

    ExportError
      TemplateError      the network cannot be traced: mend the model
      InjectionError     weights and template do not belong together: do not release
      ParityError        the file does not compute what torch computes: do not release; alert
      QuantisationError  no int8 file can be made: ship float32
      RunError           a run does not hold such weights: choose what it offers (run_weights)
      BudgetUnmetError   no width keeps the device's budget: raise it (selection)
      OutFolderError     the folder holds others' files: name another (out_folder)
      CheckError         a file cannot be checked at all: name one that can be read (file_subject)
"""


class ExportError(Exception):
    """A sub-model cannot be exported. Nothing was written; the model in use stays."""


class TemplateError(ExportError):
    """The network cannot be turned into an ONNX graph. Mend the line of the model it names."""


class InjectionError(ExportError):
    """Weights and template do not belong together. Check that both are of one model and width."""


class ParityError(ExportError):
    """The ONNX file does not compute what torch computes. Do not release it; report it."""


class QuantisationError(ExportError):
    """No int8 file can be made of this network. Ship float32, or supply what it asks for."""
