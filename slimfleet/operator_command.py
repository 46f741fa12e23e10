"""An operator's command to the server, and its answer."""

import argparse
import asyncio
import secrets
import sys

from broker.codec import encode
from broker.errors import LinkError
from broker.messages import Command, CommandResult, Message, OperatorAction, ServerState
from broker.topics import CommandTopic, ResultTopic, ServerTells, ServerTopic, Topic, topic_for
from slimfleet.exit_codes import ExitCode
from slimfleet.operator_link import (
    Access,
    add_access_arguments,
    listen,
    operator_link,
    read_access,
)

TIMEOUT_S = 10.0
REASON_LIMIT = 500


def add_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command needs: a reason, and access to the broker.

    Without an action such a subcommand shows something, and needs no reason.
    """
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument(
        "--reason",
        "--text",
        type=_reason,
        metavar="TEXT",
        help="why, for the journal; of a note, what it says",
    )
    add_access_arguments(parser, timeout_s=TIMEOUT_S)


def command_server(
    arguments: argparse.Namespace,
    name: str,
    action: OperatorAction,
    done: str,
    device: str = "",
    width: float = 0.0,
) -> int:
    """Ask the server, wait for its answer, tell the person, and return the exit status.

    Args:
        arguments: with those of `add_command_arguments`.
        name: of the subcommand, for messages.
        action: what is asked for.
        done: what to say when it is done.
        device: whom it concerns, "" for the whole fleet.
        width: of a cap; 0 = none.
    """
    if arguments.reason is None:
        arguments.usage_error("the following arguments are required: --reason")
    access = read_access(arguments)
    command = Command(
        command_id=secrets.token_hex(8),
        action=action,
        device=device,
        reason=arguments.reason,
        width=width,
    )
    answer, server = asyncio.run(_ask(access, command, arguments.timeout))
    if answer is None:
        state = f"the server is {server.status}" if server else "no server has served this fleet"
        sys.stderr.write(
            f"slimfleet {name}: no answer within {arguments.timeout:g} s ({state}); whether it was"
            " done is not known: see slimfleet status\n"
        )
        return ExitCode.FAILURE
    if not answer.done:
        sys.stderr.write(f"slimfleet {name}: refused: {answer.detail}\n")
        return ExitCode.FAILURE
    sys.stdout.write(f"{done}\n")
    return ExitCode.DONE


async def _ask(
    access: Access, command: Command, timeout_s: float
) -> tuple[CommandResult | None, ServerState | None]:
    """Send the command; return the answer, and what the server's state was, where either came."""
    answer: CommandResult | None = None
    server: ServerState | None = None

    def heard(_topic: Topic, message: Message) -> bool:
        nonlocal answer, server
        if isinstance(message, ServerState):
            server = message
        # The answer to the last command is retained: an older one comes first.
        if isinstance(message, CommandResult) and message.command_id == command.command_id:
            answer = message
        return answer is not None

    filters = [
        topic_for(access.fleet, ResultTopic(access.operator)),
        topic_for(access.fleet, ServerTopic(ServerTells.STATE)),
    ]
    async with operator_link(access, filters) as link:
        sending = asyncio.ensure_future(
            link.publish(topic_for(access.fleet, CommandTopic(access.operator)), encode(command))
        )
        try:
            await listen(link, access, heard, timeout_s)
            if sending.done() and (error := sending.exception()):
                raise LinkError(str(error)) from error
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return answer, server


def _reason(text: str) -> str:
    if not text.strip() or len(text) > REASON_LIMIT:
        raise argparse.ArgumentTypeError(f"say why, in 1 to {REASON_LIMIT} characters")
    return text.strip()
