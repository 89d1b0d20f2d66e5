"""`python -m serving_api keys create|list|revoke`: API keys, made on the machine that has the database.

- They go to the stores directly: no key is needed to make the first one, and none exists until somebody does.
- A key's text is printed once, alone on standard output, and is nowhere else.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from online_models.errors import SettingsError
from online_models.ports import KeyStore
from online_models.text_columns import text_columns
from serving_api.access import Role, new_key, state_of

LONGEST_DAYS: Final = 36_500.0

_EXAMPLES: Final = """\
examples:
  python -m serving_api keys create --role admin --name alice --expires-days 90
  python -m serving_api keys list
  python -m serving_api keys revoke 1f0c9a3b
"""


@dataclass(frozen=True, slots=True)
class KeyDesk:
    """What the commands work on; random_bytes : so many bytes that nobody can guess; tell : says something beside the answer."""

    store: KeyStore
    now: datetime
    random_bytes: Callable[[int], bytes]
    tell: Callable[[str], None]


def add_key_commands(parser: argparse.ArgumentParser) -> None:
    """The commands of `keys`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="keys_command", required=True)
    create = commands.add_parser(
        "create",
        help="make a key and print it, once",
        epilog="example: python -m serving_api keys create --role operator --name bob --expires-days 90",
    )
    create.add_argument("--role", required=True, choices=[str(role) for role in Role], help="what it is good for")
    create.add_argument("--name", required=True, help="who has it, as audit trails name them")
    create.add_argument("--expires-days", type=_days, metavar="DAYS", help="good for so long (default: until revoked)")
    create.set_defaults(answer=create_key)
    listing = commands.add_parser(
        "list", help="all keys, never their secrets", epilog="example: python -m serving_api keys list"
    )
    listing.set_defaults(answer=list_keys)
    revoke = commands.add_parser(
        "revoke", help="make a key good for nothing", epilog="example: python -m serving_api keys revoke 1f0c9a3b"
    )
    revoke.add_argument("prefix", help="the eight characters behind `pk_`")
    revoke.set_defaults(answer=revoke_key)


def create_key(options: argparse.Namespace, desk: KeyDesk) -> list[str]:
    """The text of a fresh key. Raises SettingsError when the name is none."""
    days = options.expires_days
    expires_at = None if days is None else desk.now + timedelta(days=days)
    try:
        text, key = new_key(options.name, Role(options.role), desk.now, expires_at, desk.random_bytes)
    except ValueError as error:
        raise SettingsError(f"--name: {error}") from error
    desk.store.put_key(key)
    until = "revoked" if expires_at is None else f"{expires_at:%Y-%m-%d %H:%M} UTC"
    desk.tell(f"key {key.prefix} of {key.name}: {key.role}, good until {until}; it is not shown again")
    return [text]


def list_keys(_: argparse.Namespace, desk: KeyDesk) -> list[str]:
    """A table of all keys, oldest first."""
    rows = [("prefix", "name", "role", "state", "created", "expires")]
    stored = desk.store.keys()
    for key in stored:
        expires = "-" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
        rows.append(
            (key.prefix, key.name, key.role, state_of(key, desk.now), f"{key.created_at:%Y-%m-%d %H:%M}", expires)
        )
    return text_columns(rows)


def revoke_key(options: argparse.Namespace, desk: KeyDesk) -> list[str]:
    """That it is revoked. Raises SettingsError when there is no such key."""
    if not desk.store.revoke_key(options.prefix, desk.now):
        raise SettingsError(f"expected the prefix of a key, got {options.prefix!r}; `keys list` shows them")
    return [f"key {options.prefix} is revoked"]


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0.0 < days <= LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"expected days within (0, {LONGEST_DAYS:.0f}], got {text!r}")
    return days
