"""``recorder simulate --synthetic fix``: a counterparty that a recorder can be pointed at."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

from recorder_process import command, environment

from recorder.core.text_time import fix_text
from recorder.values.fix import closed, joined


def test_it_listens_answers_a_logon_and_says_what_it_sent(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    arguments = ("--synthetic", "fix", "--symbols", "EUR/USD", "--rate", "200", "--truth", truth)
    process = subprocess.Popen(
        command("simulate", *arguments), stdout=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        name, address = process.stdout.readline().split()
        assert name == "fix"
        host, port = address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            head = joined((35, "A"), (49, "RECORDER"), (56, "FEED"), (34, 1), (52, fix_text(time.time_ns())))
            peer.sendall(closed(head + joined((98, 0), (108, 30), (141, "Y"))))
            answer = peer.recv(4096)
        assert answer.startswith(b"8=FIX.4.4\x019=")
        assert b"\x0135=A\x01" in answer
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert json.loads(truth.read_text())["fix"]["connections"] == 1
