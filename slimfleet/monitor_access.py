"""``slimfleet monitor user ...`` and ``slimfleet monitor token ...``: who may use the page."""

import argparse
import getpass
import os
import sys
import time
from pathlib import Path

from journal.platform import open_new
from monitor.web.people import People
from monitor.web.person import Person, Role
from monitor.web.secret_hash import hash_password, hash_token, make_token
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode

WHAT = {
    "add": "let somebody sign in with a password",
    "remove": "let a user sign in no more",
    "create": "make a token, which is shown once",
    "revoke": "make a token worthless",
    "list": "show who there is",
}
ROLES = [str(role) for role in Role]


def add_access_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands; without one of them the page is served."""
    parser.set_defaults(what="")
    kinds = parser.add_subparsers(dest="what", metavar="user | token")
    users = kinds.add_parser("user", help="users that sign in with a password")
    tokens = kinds.add_parser("token", help="tokens, for people and programs")
    for kind, verbs in ((users, ("add", "remove", "list")), (tokens, ("create", "revoke", "list"))):
        inner = kind.add_subparsers(dest="verb", required=True, metavar=" | ".join(verbs))
        make, end, show = (inner.add_parser(verb, help=WHAT[verb]) for verb in verbs)
        for one in (make, end, show):
            _add_place(one)
        make.add_argument("--role", choices=ROLES, default="viewer", help="default viewer")
        if kind is users:
            make.add_argument("name", metavar="NAME")
            make.add_argument(
                "--password-file",
                type=Path,
                dest="secret_file",
                metavar="FILE",
                help="its first line is the password; asked for where it is left out",
            )
        else:
            make.add_argument("--name", required=True, metavar="NAME", help="whose it is")
            make.add_argument(
                "--out-file",
                type=Path,
                metavar="FILE",
                help="write it into this new file, not onto the terminal",
            )
        end.add_argument("name", metavar="NAME")


def _add_place(parser: argparse.ArgumentParser) -> None:
    # Not given here, what stands before the command counts.
    for option, value, what in (
        ("--config", "FILE", "server.toml"),
        ("--journal", "DIR", "data folder of the server, without --config"),
        ("--users", "FILE", "users and tokens (default: in the data folder)"),
    ):
        parser.add_argument(option, type=Path, default=argparse.SUPPRESS, metavar=value, help=what)


def run_access_command(arguments: argparse.Namespace, file: Path) -> int:
    """Change or show who may use the page.

    Args:
        arguments: of the command line.
        file: of users and tokens.

    Raises:
        AccessError: it cannot be used, or the change cannot be made.
        ConfigError: the password or the new file cannot be used.
    """
    people = People(file)
    match arguments.verb:
        case "add":
            return _add_user(arguments, people)
        case "create":
            return _create_token(arguments, people)
        case "list":
            kind = "password" if arguments.what == "user" else "token"
            for one in sorted(people.everybody().values(), key=lambda one: one.name):
                if one.secret.kind == kind:
                    made = time.strftime("%Y-%m-%d", time.localtime(one.made_at))
                    sys.stdout.write(f"{one.name:24} {one.role:10} since {made}\n")
        case _:
            people.remove(arguments.name)
            sys.stdout.write(f"{arguments.name} can no longer sign in\n")
    return ExitCode.DONE


def _add_user(arguments: argparse.Namespace, people: People) -> int:
    try:
        secret = hash_password(_password(arguments))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    role = Role(arguments.role)
    people.add(Person(name=arguments.name, role=role, secret=secret, made_at=time.time()))
    sys.stdout.write(f"{arguments.name} may sign in as {role}\n")
    return ExitCode.DONE


def _create_token(arguments: argparse.Namespace, people: People) -> int:
    token, role = make_token(), Role(arguments.role)
    file: Path | None = arguments.out_file
    if file is not None:  # first, so that no token is known that nobody has
        _write_secret(file, token)
    person = Person(name=arguments.name, role=role, secret=hash_token(token), made_at=time.time())
    try:
        people.add(person)
    except BaseException:
        if file is not None:
            file.unlink(missing_ok=True)
        raise
    sys.stdout.write(f"{file}\n" if file is not None else f"{token}\n")
    sys.stderr.write(f"the token of {arguments.name}, {role}; it is shown this once\n")
    return ExitCode.DONE


def _write_secret(file: Path, token: str) -> None:
    try:
        with os.fdopen(open_new(file, 0o600), "w", encoding="ascii") as target:
            target.write(f"{token}\n")
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already: choose another file") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot write it: {error.strerror}; check its folder") from error


def _password(arguments: argparse.Namespace) -> str:
    file: Path | None = arguments.secret_file
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot read a password: {error}") from error
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password: give --password-file")
    first = getpass.getpass(f"password of {arguments.name}: ")
    if getpass.getpass("the same again: ") != first:
        raise ConfigError("the two passwords differ: nothing was changed")
    return first
