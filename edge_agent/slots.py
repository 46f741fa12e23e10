"""Which of the models on a device's disk runs, and which one to go back to.

::

    <folder>/slots.state              which model runs (`edge_agent.slot_state`), with its checksum
    <folder>/slots.state.previous     the version before it, read if the first is damaged
    <folder>/models/<digest>/         the models (`edge_agent.model_folder`)

A model is placed as a whole folder, by rename, before the state names it; activating it is one
atomic write of the state. So the power may fail at any step and leaves the old or the new model,
never half of one. A full disk leaves the old one.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from broker.errors import DigestError
from broker.manifest import ModelManifest
from edge_agent import slot_state
from edge_agent.model_folder import ModelFolder
from edge_agent.slot_state import SlotState
from edge_agent.stored_model import (
    STATE_FILE,
    InstalledModel,
    NotInstalledError,
    current_of,
    open_model,
    read_slot_state,
)
from journal.disk import make_folder, register_file, remove_leftovers, write_state
from journal.errors import DamagedFileError, DiskFullError

logger = logging.getLogger(__name__)

register_file("slots-state", "the state that names the current model")


class ModelSlots:
    """The one writer of a device's models. Methods may be called from any thread."""

    def __init__(self, folder: Path, *, free_bytes: Callable[[Path], int] | None = None) -> None:
        """Open the slots, making them where they are missing, and clear away what a kill left.

        Args:
            folder: the agent's own; only one process may open it for writing.
            free_bytes: tells the room on the disk of a folder; by default it asks the system.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.folder = make_folder(folder)
        self._models = ModelFolder(folder, free_bytes)
        self._lock = threading.RLock()
        remove_leftovers(folder)
        self._state = self._read_or_begin_anew()
        self._forget_damaged()
        self.collect()

    # --- what is there --------------------------------------------------------------------------

    def current(self) -> InstalledModel | None:
        """Return the model to run, or None."""
        with self._lock:
            return current_of(self.folder, self._state)

    def previous(self) -> InstalledModel | None:
        """Return the model that `revert` goes back to, or None."""
        with self._lock:
            state = self._state
            if not state.previous:
                return None
            by = state.previous_placed_by
            return open_model(self.folder, state.previous, counter=by, confirmed=True)

    def last_counter(self) -> int:
        """Return the counter of the last deployment that was decided on, 0 before the first."""
        return self._state.counter

    def last_digest(self) -> str:
        """Return the digest that this deployment named, "" where it took the model away."""
        return self._state.asked

    def failure(self) -> str:
        """Return why the last deployment finally failed, in one line, or "".

        A repeat of that deployment is answered with this line, not tried again.
        """
        return self._state.failure

    # --- changes --------------------------------------------------------------------------------

    def install(self, manifest: ModelManifest, onnx: bytes, counter: int) -> InstalledModel:
        """Place a verified model on the disk; it does not run until `activate`.

        Installing a model that is there costs one read.

        Args:
            manifest: from the verified release.
            onnx: the file.
            counter: of the verified deployment.

        Raises:
            RollbackError: the deployment is older than the last one.
            DigestError: file and manifest differ.
            DiskFullError: too little room; the current model stays.
            OSError: the disk failed otherwise; the current model stays.
        """
        with self._lock:
            slot_state.check_counter(self._state, counter, manifest.digest)
            if hashlib.sha256(onnx).hexdigest() != manifest.digest:
                raise DigestError(
                    f"ONNX file of {len(onnx)} bytes is not the {manifest.digest[:12]} of its"
                    " manifest; fetch it again"
                )
            return self._models.place(manifest, onnx)

    def activate(self, digest: str, counter: int) -> InstalledModel:
        """Make an installed model the current one, by one atomic write.

        Raises:
            NotInstalledError: no whole model of this digest is there.
            RollbackError: the deployment is older than the last one.
            DiskFullError: too little room; the current model stays.
        """
        with self._lock:
            if not self._models.is_whole(digest):
                raise NotInstalledError(f"model {digest[:12]} is not installed; install it first")
            self._save(slot_state.activate(self._state, digest, counter))
            confirmed = self._state.confirmed
            return open_model(self.folder, digest, counter=counter, confirmed=confirmed)

    def confirm(self) -> None:
        """Note that the current model runs, and drop the models that are not needed any more.

        Raises:
            DiskFullError: too little room to note it; try again.
        """
        with self._lock:
            if self._state.current and not self._state.confirmed:
                self._save(slot_state.confirm(self._state))
            self.collect()

    def revert(self, reason: str) -> InstalledModel | None:
        """Go back to the previous model, or to none, and return it.

        Args:
            reason: why, in one line; see `failure`.

        Raises:
            DiskFullError: too little room to note it; try again.
        """
        with self._lock:
            self._save(slot_state.revert(self._state, reason))
            self.collect()
            return self.current()

    def give_up(self, digest: str, counter: int, reason: str) -> None:
        """Note that a deployment is finally refused; what runs stays.

        Raises:
            RollbackError: the deployment is older than the last one.
            DiskFullError: too little room to note it; try again.
        """
        with self._lock:
            self._save(slot_state.give_up(self._state, digest, counter, reason))
            self.collect()

    def remove(self, counter: int) -> None:
        """Run no model any more and delete all of them: the deployment took them away.

        Raises:
            RollbackError: the deployment is older than the last one.
            DiskFullError: too little room to note it; try again.
        """
        with self._lock:
            self._save(slot_state.remove(self._state, counter))
            self.collect()

    def start(self) -> InstalledModel | None:
        """Count a start of the process, before its model is loaded, and return that model.

        A model that ends the process each time is left after a few starts, without the server.

        Raises:
            DiskFullError: too little room to count; an unconfirmed model is not to be run.
        """
        with self._lock:
            started = slot_state.start(self._state)
            if started != self._state:
                self._save(started)
                if started.failure:
                    logger.warning("went back to the model before: %s", started.failure)
                    self.collect()
            return self.current()

    def collect(self) -> None:
        """Delete the models that are neither current nor previous, and what a kill left."""
        with self._lock:
            self._models.collect({self._state.current, self._state.previous})

    # --- the disk -------------------------------------------------------------------------------

    def _save(self, state: SlotState) -> None:
        encoded = slot_state.encode_slot_state(state)
        write_state(self.folder / STATE_FILE, encoded, kind="slots-state")
        self._state = state

    def _read_or_begin_anew(self) -> SlotState:
        try:
            return read_slot_state(self.folder)
        except DamagedFileError as error:
            # A device that refuses to start helps nobody: the server's retained deployment, which
            # must be signed and unexpired, installs the model again.
            logger.warning("model slots begin anew, without a model: %s", error)
            for path in self.folder.glob(f"{STATE_FILE}*"):
                path.replace(path.with_name(f"damaged-{path.name}"))
            return SlotState()

    def _forget_damaged(self) -> None:
        for digest in (self._state.previous, self._state.current):
            if digest and not self._models.is_whole(digest):
                logger.warning("model %s is damaged on the disk and is not run", digest[:12])
                self._state = slot_state.without(self._state, digest)
                with contextlib.suppress(DiskFullError):  # found again at the next start
                    self._save(self._state)
