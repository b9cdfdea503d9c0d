"""`recorder db start|stop|status|console`: the embedded QuestDB."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from typing import TYPE_CHECKING

from recorder.values.errors import ConfigError, DatabaseError

if TYPE_CHECKING:
    from recorder.values.config import Config


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "db",
        help="start, stop and look at the embedded QuestDB",
        description="The embedded QuestDB: a process of its own, which goes on running when the recorder stops.",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("start", help="start it and wait until it answers; fetches it the first time (30 MB)")
    actions.add_parser("stop", help="stop it cleanly")
    status = actions.add_parser("status", help="whether it runs, where, since when; exits 1 if it does not answer")
    status.add_argument("--json", action="store_true", help="as a JSON object")
    console = actions.add_parser("console", help="print the address of its SQL console in the browser")
    console.add_argument("--open", action="store_true", help="open the browser as well")


def run(args: argparse.Namespace, config: Config) -> int:
    return {"start": _start, "stop": _stop, "status": _status, "console": _console}[args.action](args, config)


def _start(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database import Database

    _refuse_external(config, "start")
    database = Database.from_config(config)
    started = database.start()
    status = database.status()
    print(f"QuestDB {'started' if started else 'is running already'} (pid {status.pid}), data in {database.root}")
    print(f"SQL console and HTTP {database.sql_url}   PGWire 127.0.0.1:{database.pg_port}")
    return 0


def _stop(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database import Database

    _refuse_external(config, "stop")
    database = Database.from_config(config)
    print(f"QuestDB stopped, data in {database.root}" if database.stop() else f"no QuestDB runs on {database.root}")
    return 0


def _status(args: argparse.Namespace, config: Config) -> int:
    facts = _embedded_facts(config) if config.questdb.embedded else _external_facts(config)
    if args.json:
        import orjson

        sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 0 if facts["ready"] else 1


def _embedded_facts(config: Config) -> dict[str, object]:
    from recorder.shell.database import Database

    database = Database.from_config(config)
    status = database.status()
    facts: dict[str, object] = {
        "running": status.pid is not None,
        "ready": status.ready,
        "pid": status.pid,
        "dir": str(status.root),
        "sql": f"http://127.0.0.1:{status.http_port}",
        "pg_port": status.pg_port,
        "min_http_port": status.min_http_port,
    }
    if status.pid is not None:
        facts |= {"rss_mb": status.rss_bytes >> 20, "uptime_s": round(status.uptime_s)}
    if status.ready:
        with database.client() as client:
            facts["suspended"] = [r["name"] for r in client.rows("wal_tables() where suspended")]
    return facts


def _external_facts(config: Config) -> dict[str, object]:
    from recorder.shell.database.sql_client import connect

    facts: dict[str, object] = {"running": True, "ready": True, "sql": config.questdb.sql}
    try:
        with connect(config) as client:
            facts["suspended"] = [r["name"] for r in client.rows("wal_tables() where suspended")]
    except DatabaseError as error:
        facts |= {"running": False, "ready": False, "error": str(error)}
    return facts


def _console(args: argparse.Namespace, config: Config) -> int:
    questdb = config.questdb
    address = f"http://127.0.0.1:{questdb.http_port}" if questdb.embedded else questdb.sql
    print(address)
    if args.open and not webbrowser.open(address):
        print("no browser could be opened here; open the address above yourself", file=sys.stderr)
        return 1
    return 0


def _refuse_external(config: Config, action: str) -> None:
    if not config.questdb.embedded:
        raise ConfigError(
            f"questdb.embedded is false: the server at {config.questdb.sql} is not the recorder's to {action}; "
            "set questdb.embedded = true to use the embedded one"
        )
