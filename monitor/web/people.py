"""Who may use the page: users with a password and tokens, in one file that only its owner reads."""

import logging
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.topics import check_name
from journal.disk import make_folder, write_atomically
from journal.platform import FileLock, HeldError
from monitor.web.person import Person, SecretHash

log = logging.getLogger(__name__)

FILE = "monitor-access.json"
LOCK = "monitor-access.lock"
LIMIT = 1000


class AccessError(Exception):
    """The file of people cannot be used or changed so. The message says what to do."""


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    people: tuple[Person, ...] = ()


@dataclass(frozen=True)
class _Read:
    signature: tuple[int, ...] | None
    people: dict[str, Person]


class People:
    """The file, read anew whenever it has changed.

    Args:
        path: of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = _Read(None, {})
        self._failure = ""

    def everybody(self) -> dict[str, Person]:
        """Return who may use the page, by name.

        Raises:
            AccessError: the file cannot be read, others may read it, or it is none of ours.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AccessError(f"{self.path}: {error.strerror}; check its folder") from error
        signature = (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
        if signature != self._read.signature:
            self._read = _Read(signature, self._parse(found.st_mode))
        return self._read.people

    def known(self) -> dict[str, Person]:
        """Return the same; nobody where the file cannot be used, so that it never opens a door."""
        try:
            found = self.everybody()
        except AccessError as error:
            if self._failure != str(error):
                self._failure = str(error)
                log.error("nobody can sign in: %s", error)
            return {}
        self._failure = ""
        return found

    def by_token(self, kept: SecretHash) -> Person | None:
        """Return whose token this is the hash of."""
        # Found by its hash: how long that takes tells nothing about a token of 256 bits.
        return next((one for one in self.known().values() if one.secret == kept), None)

    def add(self, person: Person) -> None:
        """Add somebody.

        Raises:
            AccessError: the name is taken or no name, or the file cannot be used.
        """
        try:
            check_name(person.name, "name")
        except ValueError as error:
            raise AccessError(str(error)) from error
        with self._changing() as people:
            if person.name in people:
                raise AccessError(
                    f"{person.name} is there already: remove it first, or choose another name"
                )
            if len(people) >= LIMIT:
                raise AccessError(f"{LIMIT} people are there already: remove one first")
            people[person.name] = person

    def remove(self, name: str) -> None:
        """Remove somebody; open sessions end with it.

        Raises:
            AccessError: there is nobody of that name, or the file cannot be used.
        """
        with self._changing() as people:
            if people.pop(name, None) is None:
                known = ", ".join(sorted(people)) or "nobody"
                raise AccessError(f"there is no {name!r}; known are {known}")

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Person]]:
        """Hand out everybody to be changed, and write what became of it; nobody else does so."""
        try:
            make_folder(self.path.parent)
            with FileLock(self.path.with_name(LOCK)):
                found = dict(self.everybody())
                yield found
                document = _Document(people=tuple(found.values()))
                content = msgspec.json.format(msgspec.json.encode(document), indent=2)
                write_atomically(self.path, content, mode=0o600)
        except HeldError as error:
            raise AccessError(f"{error}: somebody else changes it; try again") from error
        except OSError as error:
            raise AccessError(f"{self.path}: {error.strerror}; check the folder") from error

    def _parse(self, mode: int) -> dict[str, Person]:
        if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise AccessError(f"{self.path} can be read by others: chmod 600 {self.path}")
        try:
            document = msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except OSError as error:
            raise AccessError(f"{self.path}: {error.strerror}; check its owner") from error
        except msgspec.DecodeError as error:
            raise AccessError(
                f"{self.path} is damaged ({error}); restore it, or remove it and make users anew"
            ) from error
        if document.schema != 1:
            raise AccessError(f"{self.path} was written by a newer slimfleet: install that one")
        return {person.name: person for person in document.people}
