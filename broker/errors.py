"""The errors of the wire, named by remedy.

::

    BrokerError
      DecodeError        the peer sent nonsense: drop the message, count it, go on
      SizeError          a message over the limit: never publish it
      BlobError          a blob is not what its name says: fetch it again
      ReleaseError       a release is not acceptable: keep the current model, report it
        SignatureError   DigestError   RollbackError   ExpiredError   WrongDeviceError
      LinkError          the network is away: retry with jittered back-off
      BrokerConfigError  a broker cannot be started as configured
"""


class BrokerError(Exception):
    """Base of everything that can go wrong between two parties on the wire."""


class DecodeError(BrokerError):
    """The peer sent nonsense. Drop the message, count it, go on."""


class SizeError(BrokerError):
    """A message is over the size limit. Never publish it; send a blob instead."""


class BlobError(BrokerError):
    """A blob is not what its name says. Fetch it again."""


class ReleaseError(BrokerError):
    """A release is not acceptable. Keep the current model and report why."""

    code = "refused"


class SignatureError(ReleaseError):
    """No trusted key signed this. Check the device's trusted keys; else somebody forged it."""

    code = "bad-signature"


class DigestError(ReleaseError):
    """Bytes and signed digest differ. The file was altered or damaged on the way."""

    code = "wrong-digest"


class RollbackError(ReleaseError):
    """An older deployment than the one in force. To go back, the server sends a higher counter."""

    code = "older-counter"


class ExpiredError(ReleaseError):
    """The signed document is past its expiry. Check the device's clock, else sign it anew."""

    code = "expired"


class WrongDeviceError(ReleaseError):
    """The deployment names another device."""

    code = "wrong-device"


class LinkError(BrokerError):
    """The broker is out of reach. Retry with jittered back-off."""


class BrokerConfigError(BrokerError):
    """A broker cannot be started as configured. The message says what to install or change."""
