"""The README is true: its tables follow from the code, its commands are the program's."""

from __future__ import annotations

import re
from pathlib import Path

from recorder.commands.cli import VERBS
from recorder.feeds import PROVIDERS
from recorder.values.tables import FLAGS, TABLES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def tables_markdown() -> str:
    """The README's list of tables, as the declarations say."""
    lines = ["| table | one row is | identity | columns |", "|---|---|---|---|"]
    for table in TABLES.values():
        keys = ", ".join(table.dedup)
        others = ", ".join(name for name, _, _ in table.sql_columns if name not in table.dedup)
        lines.append(f"| `{table.name}` | {table.doc} | {keys} | {others} |")
    return "\n".join(lines)


def test_the_tables_are_those_of_the_declarations():
    assert tables_markdown() in README


def test_the_flags_are_named_with_their_bits():
    assert ", ".join(f"`{name}` {bit}" for name, bit in FLAGS.items()) in README.replace("\n", " ")


def test_the_commands_are_those_of_the_program():
    section = README.split("## Commands")[1].split("##")[0]
    assert re.findall(r"^\| `(\w+)", section, re.M) == list(VERBS)


def test_every_provider_is_listed_and_no_other():
    section = README.split("## Recording your own feeds")[1].split("##")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.M)) == sorted(PROVIDERS)


def test_the_first_two_commands_are_one_line_each():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert blocks[0].startswith("python3 -m venv")


def test_files_the_readme_names_exist():
    for name in re.findall(r"`((?:recorder|tests|bench|sql)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
