"""`recorder schema`: print the tables and views as SQL, or bring the database forward to them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recorder.values.config import Config


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "schema",
        help="print the tables and views as SQL, or apply them",
        description="Print every table and view as SQL. With --apply: create what is missing and add missing columns "
        "in the configured database. Applying twice changes nothing; no column is ever dropped or converted.",
    )
    parser.add_argument("--apply", action="store_true", help="apply to the configured database and say what was done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database import migrate

    if not args.apply:
        sys.stdout.write(migrate.tables_sql(config.retention))
        for path in migrate.view_files():
            sys.stdout.write(f"\n-- views/{path.name}\n{path.read_text(encoding='utf-8').rstrip()}\n")
        return 0

    from recorder.shell.database.sql_client import connect

    with connect(config) as client:
        done = migrate.apply_schema(client, config)
        print("\n".join(done) if done else f"the schema at {client.base_url} is up to date")
    return 0
