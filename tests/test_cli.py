from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import recorder
from recorder.commands import cli
from recorder.values.errors import ConfigError, DatabaseError
from recorder.values.feed import ProviderInfo

REPO = Path(__file__).resolve().parent.parent
HELP_CPU_S = 0.5  # 0.1 on an idle machine, 0.22 on a crowded one; a library for data costs more
VERBS = [
    "run", "demo", "login", "check", "db", "schema", "sql", "replay", "journal", "rebuild", "simulate", "gaps",
    "coverage", "chain", "backfill", "actions", "export", "drill", "logs",
]  # fmt: skip
Verb = Callable[..., ModuleType]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, providers that need no module, no variable that overrides anything."""
    monkeypatch.chdir(tmp_path)
    names = ("alpaca", "binance", "coinbase", "kraken")
    options = {"alpaca": {"feed": ("iex",)}, "binance": {"market": ("spot",)}, "coinbase": {"api": ("exchange",)}}
    infos = {
        name: ProviderInfo(name=name, channels=("trades", "quotes"), options=options.get(name, {})) for name in names
    }
    monkeypatch.setattr("recorder.feeds.PROVIDERS", infos)
    for name in [n for n in os.environ if n.startswith("RECORDER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Puts a module in the place of ``recorder.commands.check``; it keeps what it was called with in ``called``."""

    def install(run: Callable[[Any, Any], Any] = lambda args, config: 0, **attributes: Any) -> ModuleType:
        module: Any = ModuleType("recorder.commands.check")
        module.called = []

        def add(subparsers: Any) -> None:
            parser = subparsers.add_parser("check", help="…")
            parser.add_argument("--deep", action="store_true")
            parser.add_subparsers(dest="action").add_parser("now")

        def called(args: Any, config: Any) -> Any:
            module.called.append(SimpleNamespace(args=args, config=config))
            return run(args, config)

        module.add, module.run = add, called
        for name, value in attributes.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "recorder.commands.check", module)
        return module

    return install


def raising(error: BaseException) -> Callable[[Any, Any], int]:
    def run(args: Any, config: Any) -> int:
        raise error

    return run


def test_help_lists_the_verbs_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "]
    assert listed == VERBS
    assert "--config FILE" in text


def test_help_costs_little_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from recorder.commands.cli import main; code = main(['--help']);"
        "heavy = {'numpy', 'numba', 'msgspec', 'asyncio', 'rich', 'websockets', 'orjson'} & set(sys.modules);"
        "print(heavy, file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPO)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "set()"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < HELP_CPU_S


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"recorder {recorder.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given; `recorder --help` lists them"),
        (["chek"], "'chek' is not a command; did you mean check? known: actions, backfill, chain,"),
        (["check", "--depe"], "unrecognized arguments: --depe"),
        (["--conf", "x", "check"], "'x' is not a command"),
        (["--config"], "expected one argument"),
    ],
)
def test_wrong_usage_exits_2_and_says_what(
    check: Verb, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    check()
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 2])
def test_exit_code_is_what_the_command_returns(check: Verb, code: int) -> None:
    check(lambda args, config: code)
    assert cli.main(["check"]) == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DatabaseError("http://h: refused; start it"), 1, "recorder: http://h: refused; start it\n"),
        (ConfigError("a is 1\nb is 2"), 2, "recorder: a is 1\nrecorder: b is 2\n"),
        (OSError(28, "No space left on device", "a.csv"), 1, "recorder: a.csv: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_a_sentence_and_an_exit_code(
    check: Verb, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    check(raising(error))
    assert cli.main(["check"]) == code
    assert capsys.readouterr().err == said


def test_our_own_mistake_is_not_hidden(check: Verb) -> None:
    check(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["check"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "mine.toml", "check"],
        ["--config=mine.toml", "check", "--deep"],
        ["check", "--config", "mine.toml"],
        ["check", "--config=mine.toml", "now"],
        ["check", "now", "--config", "mine.toml"],
        ["--config", "other.toml", "check", "--config", "mine.toml"],
    ],
)
def test_config_may_stand_before_and_after_the_verb(check: Verb, arguments: list[str]) -> None:
    Path("mine.toml").write_text("[batch]\nwindow_ms = 77\n")
    module = check()
    assert cli.main(arguments) == 0
    (call,) = module.called
    assert call.config.batch.window_ms == 77
    assert call.args.config == "mine.toml"


def test_log_json_may_stand_before_and_after_the_verb(check: Verb) -> None:
    module = check()
    for arguments in (["check"], ["--log-json", "check"], ["check", "--log-json"], ["check", "now", "--log-json"]):
        assert cli.main(arguments) == 0
    assert [call.args.log_json for call in module.called] == [False, True, True, True]


def test_config_of_this_folder_is_the_default(check: Verb, tmp_path: Path) -> None:
    Path("config.toml").write_text("[batch]\nwindow_ms = 78\n")
    module = check()
    assert cli.main(["check"]) == 0
    assert module.called[0].config.batch.window_ms == 78
    assert module.called[0].config.journal.dir == tmp_path / "journal"


def test_without_a_file_the_shipped_one_applies_and_its_paths_start_here(check: Verb, tmp_path: Path) -> None:
    module = check()
    assert cli.main(["check"]) == 0
    (call,) = module.called
    assert {f.provider for f in call.config.feeds} == {"alpaca", "binance", "coinbase", "kraken"}
    assert call.config.journal.dir == tmp_path / "journal"
    assert Path(call.args.config) == REPO / "config.toml"


def test_file_that_was_named_must_exist(check: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    module = check()
    assert cli.main(["--config", "none.toml", "check"]) == 2
    assert "recorder: --config: there is no file none.toml; check the path" in capsys.readouterr().err
    assert module.called == []


def test_every_problem_of_a_bad_file_is_said_before_anything_starts(
    check: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.toml").write_text("[batch]\nwindow_ms = 0\n[journl]\n")
    module = check()
    assert cli.main(["check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("recorder: config.toml: ") for line in lines] == [True, True]
    assert module.called == []


def test_command_that_needs_no_config_gets_one_only_when_named(check: Verb) -> None:
    Path("config.toml").write_text("[batch]\nwindow_ms = 0\n")  # bad, and of no concern
    Path("mine.toml").write_text("")
    module = check(NEEDS_CONFIG=False)
    assert cli.main(["check"]) == 0
    assert cli.main(["check", "--config", "mine.toml"]) == 0
    assert [call.config is None for call in module.called] == [True, False]


def test_keys_from_the_environment_never_reach_the_log(
    check: Verb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recorder.shell import log

    def run(args: Any, config: Any) -> int:
        log.get("x").error("a.b", reason="refused: hunter2hunter2, also opensesame")
        return 0

    check(run)
    info = ProviderInfo(name="kraken", channels=("trades",), credentials=("KRAKEN_ID",))
    monkeypatch.setattr("recorder.feeds.PROVIDERS", {"kraken": info})
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setenv("KRAKEN_ID", "hunter2hunter2")
    monkeypatch.setenv("RECORDER_QUESTDB_PASSWORD", "opensesame")
    Path("config.toml").write_text('[[feeds]]\nname = "k"\nprovider = "kraken"\nsymbols = ["BTC-USD"]\n')
    assert cli.main(["check"]) == 0
    log.close()
    assert '"reason":"refused: ***, also ***"' in capsys.readouterr().err


def test_reader_that_goes_away_is_no_error() -> None:
    program = textwrap.dedent(
        """
        import sys, types
        from recorder.commands import cli
        module = types.ModuleType("recorder.commands.check")
        module.NEEDS_CONFIG = False
        module.add = lambda subparsers: subparsers.add_parser("check")
        def run(args, config):
            for number in range(1_000_000):
                print(number)
            return 0
        module.run = run
        sys.modules[module.__name__] = module
        sys.exit(cli.main(["check"]))
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141


def test_another_pipe_that_breaks_is_not_taken_for_the_reader(check: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    check(raising(BrokenPipeError()))
    with open("out", "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError):
            cli.main(["check"])


@pytest.mark.parametrize("verb", ["logs"])
def test_commands_explain_themselves(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert "--config FILE" in capsys.readouterr().out


def test_program_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "recorder", "--version"], capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stdout) == (0, f"recorder {recorder.__version__}\n")
