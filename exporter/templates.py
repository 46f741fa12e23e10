"""Templates on disk: traced once per model and width, used in every round. Imports torch.

Tracing a network costs about a second, putting weights into a traced graph milliseconds.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import onnxscript
import torch
from torch import nn

from exporter.fingerprint import network_fingerprint
from exporter.tracing import OPSET, Template, trace_template
from journal.disk import TEMPORARY, make_folder, write_atomically
from slimmable.model import SlimmableModel

logger = logging.getLogger(__name__)

TEMPLATE_FORMAT = 3
SUFFIX = ".template"
DEFAULT_LIMIT = 2 * 1024**3  # bytes; one template takes some hundred kilobytes
LEFTOVER_AGE = 3600.0  # seconds after which a temporary file is nobody's

_SEAL_LENGTH = 64


class _Entry(msgspec.Struct, frozen=True):
    """What a file holds after its seal."""

    graph: bytes
    prepared: bytes
    used: tuple[str, ...]
    constants: tuple[str, ...]


class TemplateCache:
    """Templates in a folder, one file per model, width, opset and version of the exporters.

    An entry begins with its own SHA-256. One that is damaged is traced anew; a folder that cannot
    be written costs time and nothing else. Several processes may share a folder: files are replaced
    as a whole. Beyond its limit the folder loses the templates that were not used for longest.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT) -> None:
        """Use a folder, which is created when the first template is kept.

        Args:
            folder: for templates alone.
            limit: bytes that they may take together.
        """
        self._folder = folder
        self._limit = limit

    def get(
        self, model: SlimmableModel, width: float, network: nn.Module | None = None
    ) -> Template:
        """Return the template of ``width``, from the folder or newly traced.

        Args:
            model: the model.
            width: which sub-model.
            network: that sub-model where it is at hand; spares building it.

        Raises:
            TemplateError: there is none yet and the network cannot be traced.
        """
        path = self.path(model, width, model.build(width) if network is None else network)
        try:
            template = _unpack(path.read_bytes())
        except FileNotFoundError:
            return self._trace_and_keep(model, width, path)
        except (OSError, ValueError) as error:
            reason = f"damaged: {getattr(error, 'strerror', None) or error}"
            return self._trace_and_keep(model, width, path, reason)
        with contextlib.suppress(OSError):  # a folder of somebody else's
            os.utime(path)
        return template

    def renew(self, model: SlimmableModel, width: float) -> Template:
        """Trace the template of ``width`` anew and replace the one in the folder.

        Raises:
            TemplateError: the network cannot be traced.
        """
        return self._trace_and_keep(model, width, self.path(model, width, model.build(width)))

    def path(self, model: SlimmableModel, width: float, network: nn.Module) -> Path:
        """Return the file of a template; its name says what the template depends on."""
        key = {
            "format": TEMPLATE_FORMAT,
            "spec": model.spec.spec_hash,
            "network": network_fingerprint(model, network),
            "width": width,
            "torch": torch.__version__,
            "onnxscript": onnxscript.__version__,
            "opset": OPSET,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]", "-", model.name)
        return self._folder / f"{name}-w{width:.4f}-{digest[:24]}{SUFFIX}"

    def _trace_and_keep(
        self, model: SlimmableModel, width: float, path: Path, damage: str = ""
    ) -> Template:
        template = trace_template(model, width)
        try:
            make_folder(path.parent)
            write_atomically(path, _pack(template), mode=0o644)
        except OSError as error:
            reason = error.strerror or str(error)
            logger.warning(
                "template %s cannot be kept (%s); it is traced each time", path, damage or reason
            )
            return template
        if damage:
            logger.warning("template %s was %s; it is traced anew", path, damage)
        self._make_room(path)
        return template

    def _make_room(self, newest: Path) -> None:
        """Delete the templates that were not used for longest, down to the limit.

        Another process may delete the same ones at the same moment, or have one of them open, which
        goes on reading what it opened.
        """
        entries = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                found = path.stat()
                entries.append((found.st_mtime_ns, found.st_size, path))
        excess = sum(size for _, size, _ in entries) - self._limit
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            if path == newest:
                continue
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                excess -= size
        self._remove_leftovers(newest)

    def _remove_leftovers(self, newest: Path) -> None:
        """Delete what processes left that were killed while they wrote."""
        for path in self._folder.glob(f".*{SUFFIX}.*{TEMPORARY}"):
            with contextlib.suppress(OSError):
                if newest.stat().st_mtime - path.stat().st_mtime > LEFTOVER_AGE:
                    path.unlink(missing_ok=True)


def warm_templates(model: SlimmableModel, widths: Iterable[float], cache: TemplateCache) -> int:
    """Trace the templates that are still missing, before they are needed.

    Returns:
        How many were traced.

    Raises:
        TemplateError: the network cannot be traced.
    """
    return sum(cache.get(model, width).traced_now for width in sorted(set(widths)))


def _pack(template: Template) -> bytes:
    body = msgspec.msgpack.encode(
        _Entry(
            graph=template.graph,
            prepared=template.prepared,
            used=tuple(sorted(template.used)),
            constants=tuple(sorted(template.constants)),
        )
    )
    return hashlib.sha256(body).hexdigest().encode() + body


def _unpack(content: bytes) -> Template:
    seal, body = content[:_SEAL_LENGTH], content[_SEAL_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise ValueError("content and checksum differ")
    try:
        entry = msgspec.msgpack.decode(body, type=_Entry)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a template ({error})") from error
    return Template(
        graph=entry.graph,
        prepared=entry.prepared,
        used=frozenset(entry.used),
        constants=frozenset(entry.constants),
        traced_now=False,
    )
