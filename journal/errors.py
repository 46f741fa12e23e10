"""The errors of the journal room, named by remedy.

::

    JournalError
      EventError           an event cannot be stored or read: correct the event, or the software
      JournalMissingError  there is no journal here: check the folder
      JournalLockedError   another process writes it: stop that process or use another folder
      JournalVersionError  written by other software: install the version that wrote it
      JournalDamagedError  the file is not what was written: restore it, nothing was changed
        ChainError         a record was edited, removed, moved or cut off: says which one
      JournalClosedError   closed, or unsure after a write error: open it again
      AuditError           an export or a proof of the audit log is none: make it again
      BlobMissingError     no such blob in the folder
      DamagedFileError     bytes and digest of a file differ: fetch or write it again
      DiskFullError        no room: what was there before is untouched; make room, try again
"""


class JournalError(Exception):
    """Base of everything that can go wrong with what is kept on disk."""


class EventError(JournalError):
    """An event cannot be stored as it is, or a stored one cannot be read by this software."""


class JournalMissingError(JournalError):
    """There is no journal in the folder. Check the folder; the server makes a new one."""


class JournalLockedError(JournalError):
    """Another process writes this journal. Stop it, or use another folder."""


class JournalVersionError(JournalError):
    """The journal was written by other software. Install the version that wrote it."""


class JournalDamagedError(JournalError):
    """The file is not what was written. Nothing was changed; restore it from a copy."""


class ChainError(JournalDamagedError):
    """A record was edited, removed, moved or cut off.

    Attributes:
        index: the first place in the chain that does not hold.
    """

    def __init__(self, index: int, what: str) -> None:
        """Name the first broken place and what is wrong there."""
        super().__init__(
            f"journal record {index}: {what}; the history from here on is not the recorded one,"
            " compare it with a copy"
        )
        self.index = index


class JournalClosedError(JournalError):
    """The journal is closed, or unsure after a write error. Open it again."""


class AuditError(JournalError):
    """A file is no export or proof of an audit log, or cannot be made. The message says why."""


class BlobMissingError(JournalError):
    """No such blob in the folder. Fetch or build it again."""


class DamagedFileError(JournalError):
    """Bytes and digest of a file differ. Fetch or write it again."""


class DiskFullError(JournalError, OSError):
    """No room on the disk, or over a quota. What was there before is untouched; make room."""
