"""The command line: finds the verb, reads the configuration, and turns errors into a sentence and an exit code.

Imports nothing but the module of the chosen verb: ``recorder --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import recorder
from recorder.values.errors import ConfigError, RecorderError, nearest

if TYPE_CHECKING:
    from recorder.values.config import Config

DEFAULT_CONFIG = "config.toml"
DONE, FAILED, WRONG_USE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141  # the last two as a shell reports the signals

# Verb → its line of help; its module is recorder.commands.<verb> with add(subparsers) and run(args, config) -> int.
# A module may say NEEDS_CONFIG = False: then config is None unless --config is given.
VERBS = {
    "run": "record the configured feeds on market hours until stopped",
    "demo": "a simulated exchange through the whole recorder into QuestDB; no account, no network",
    "login": "log in at a provider that asks a person to, each day: etrade",
    "check": "configuration, keys, database, disk, clock, calendar: would recording work?",
    "db": "start, stop, status, console: the embedded QuestDB",
    "schema": "print the tables and views as SQL, or apply them",
    "sql": "a query as a table, CSV or JSON; without one, a console",
    "replay": "journal segments or captures through the pipeline into the database",
    "journal": "list, verify, export and import journal segments",
    "rebuild": "decode the journal again, show cell by cell where a table differs, repair it",
    "simulate": "serve a journal or capture as the provider's own WebSocket",
    "gaps": "what is missing, and what was repaired",
    "coverage": "how complete a day is, with the evidence",
    "chain": "a symbol's option chain with Greeks: ask once, store, print",
    "backfill": "bars, trades and quotes of a provider's past into the tables",
    "actions": "splits, dividends, symbol changes: ask providers, store, list conflicts",
    "export": "rows of a table or view as Parquet, Arrow or CSV, bars adjusted as of a date",
    "drill": "faults with ground truth against your own installation: sent, stored, lost, doubled",
    "logs": "follow and filter the structured log",
}

_EPILOG = "Exits 0 done, 1 failed, 2 wrong usage or configuration. `recorder VERB --help` says more about each."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: help and version are 0, wrong usage is 2
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone(sys.stdout):
            raise  # another pipe, not ours to be quiet about
        _discard_output()
        return PIPE_CLOSED
    except RecorderError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"recorder: {line}", file=sys.stderr)
        return WRONG_USE if isinstance(error, ConfigError) else FAILED
    except OSError as error:  # a disk, a file or a network that nothing nearer has put into words
        where = f"{error.filename}: " if error.filename else ""
        print(f"recorder: {where}{error.strerror or error}", file=sys.stderr)
        return FAILED


def _run(arguments: list[str]) -> int:
    parser, verbs = _parser()
    verb = _verb(arguments)
    if verb is not None:
        if verb not in VERBS:
            parser.error(f"{verb!r} is not a command; {nearest(verb, VERBS)}")
        module = import_module(f"recorder.commands.{verb}")
        module.add(verbs)
        _add_common(verbs.choices[verb], argparse.SUPPRESS)
    else:
        for name, text in VERBS.items():
            verbs.add_parser(name, help=text)
    args = parser.parse_args(arguments)
    if verb is None:
        parser.error("no command given; `recorder --help` lists them")
    from recorder.shell import log
    from recorder.values.config import LogConfig

    config = None
    if args.config is not None or getattr(module, "NEEDS_CONFIG", True):
        path, _ = find_config(args.config)
        config, args.config = load_config(args.config), str(path)
    # Short commands say on stderr only what went wrong; `run` sets the log up as configured.
    log.setup(config.log if config else LogConfig(), file=False, json=args.log_json, level="warning")
    return int(module.run(args, config))


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    parser = argparse.ArgumentParser(prog="recorder", description=recorder.__doc__, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"recorder {recorder.__version__}")
    _add_common(parser, None)
    return parser, parser.add_subparsers(title="commands", metavar="VERB", dest="verb")


def _add_common(parser: argparse.ArgumentParser, default: Any) -> None:
    """Options that stand before or after the verb. After it their default is to leave alone what stood before."""
    taken = parser._option_string_actions
    if "--config" not in taken:
        parser.add_argument(
            "--config", metavar="FILE", default=default, help=f"configuration to use (default: {DEFAULT_CONFIG})"
        )
    if "--log-json" not in taken:
        parser.add_argument(
            "--log-json",
            action="store_true",
            default=default if default is not None else False,
            help="JSON log lines on a terminal too",
        )
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in dict.fromkeys(action.choices.values()):
                if nested is not parser:
                    _add_common(nested, argparse.SUPPRESS)


def _verb(arguments: list[str]) -> str | None:
    """The first argument that is neither an option nor the value of --config."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--config":
            skip = True
        elif not argument.startswith("-"):
            return argument
    return None


def find_config(given: str | None) -> tuple[Path, Path]:
    """The file to read and the folder its relative paths start at.

    given  what --config names, which must exist; None: ``config.toml`` here, else the one shipped with the program,
           whose paths then start here
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise ConfigError(
                f"--config: there is no file {given}; check the path, or leave --config out for the defaults"
            )
        return path, path.absolute().parent
    here = Path(DEFAULT_CONFIG)
    if here.is_file():
        return here, here.absolute().parent
    package = Path(recorder.__file__).absolute().parent
    for shipped in (package / DEFAULT_CONFIG, package.parent / DEFAULT_CONFIG):  # installed; in a checkout
        if shipped.is_file():
            return shipped, Path.cwd()
    raise ConfigError(f"there is no {DEFAULT_CONFIG} here and none beside {package}; name one with --config FILE")


def load_config(given: str | None) -> Config:
    """The checked configuration; its secrets never reach the log. Raises ConfigError."""
    from recorder.feeds import PROVIDERS
    from recorder.shell import log
    from recorder.values.config import credentials, load

    path, base = find_config(given)
    config = load(path, os.environ, PROVIDERS, base=base)
    log.redact(config.questdb.password)
    for provider in {feed.provider for feed in config.feeds}:
        try:
            found = credentials(PROVIDERS[provider], os.environ)
        except ConfigError:
            continue  # said by the commands that need the key
        for value in found.values():
            log.redact(value)
    return config


def _reader_is_gone(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file behind it, or no poll on this system
        return True


def _discard_output() -> None:
    """What is left in the buffer cannot be written; the interpreter must not try again at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
