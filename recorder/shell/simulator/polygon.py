"""Massive's WebSocket clusters: stocks, options, crypto. https://massive.com/docs/websocket/quickstart"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.rest import SECOND_NS
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Venue

TEXT = 1
AUTH_TIMEOUT_NS = 10 * SECOND_NS  # how long they wait is not documented
CONTRACTS_MAX = 1000  # whose quotes one connection may have
TOPICS = {
    "stocks": {"T": TRADES, "Q": QUOTES, "A": "A", "AM": "AM", "LULD": "LULD", "NOI": "NOI", "FMV": "FMV"},
    "options": {"T": TRADES, "Q": QUOTES, "A": "A", "AM": "AM", "FMV": "FMV"},
    "crypto": {"XT": TRADES, "XQ": QUOTES, "XA": "XA", "XAS": "XAS", "XL2": "XL2"},
}
_CONTRACT = re.compile(r"O:[0-9]?[A-Z]+[0-9]?\d{6}[CP]\d{8}")
_TRADES = {
    "stocks": '{"ev":"T","sym":"<symbol>","i":"<id>","x":11,"p":<price>,"s":<size>,"c":[14],"t":<ts:ms>,"pt":<ts:ms>,'
    '"q":<id>,"z":3,"ds":"<size>.0"}',
    "options": '{"ev":"T","sym":"<symbol>","x":65,"p":<price>,"s":<size>,"c":[209],"t":<ts:ms>,"q":<id>}',
    "crypto": '{"ev":"XT","pair":"<symbol>","p":<price>,"t":<ts:ms>,"s":<size>,"c":[<side>],"i":"<id>","x":1,'
    '"r":<ts:ms>}',
}
_QUOTES = {
    "stocks": '{"ev":"Q","sym":"<symbol>","i":[604],"bx":10,"ax":15,"bp":<price>,"ap":<ask>,"bs":<size>,'
    '"as":<ask_size>,"t":<ts:ms>,"pt":<ts:ms>,"q":<id>,"z":3}',
    "options": '{"ev":"Q","sym":"<symbol>","bx":302,"ax":302,"bp":<price>,"ap":<ask>,"bs":<size>,"as":<ask_size>,'
    '"t":<ts:ms>,"q":<id>}',
    "crypto": '{"ev":"XQ","pair":"<symbol>","lp":0,"ls":0,"bp":<price>,"bs":<size>,"ap":<ask>,"as":<ask_size>,'
    '"t":<ts:ms>,"x":1,"r":<ts:ms>}',
}  # fmt: skip
BAR = (
    '{"ev":"AM","sym":"MSFT","v":4110,"av":9470157,"op":114.4,"vw":114.5,"o":114.5,"c":114.6,"h":114.7,"l":114.4,'
    '"a":114.5,"z":685,"s":1610144640000,"e":1610144700000}'
)
SIDES = (b"1", b"2")  # sell side, buy side


def cluster_of(venue: Venue) -> str:
    """By its first symbol; a recording's: stocks."""
    first = venue.names[0] if venue.names else ""
    return "options" if _CONTRACT.fullmatch(first) else "crypto" if "-" in first else "stocks"


def _said(status: str, message: str) -> dict[str, str]:
    return {"ev": "status", "status": status, "message": message}


def _array(messages: list[dict[str, str]]) -> str:
    return msgspec.json.encode(messages).decode()


def _status(status: str, message: str) -> str:
    return _array([_said(status, message)])


NOTICES: dict[str, tuple[Reply, ...]] = {
    "auth_failed": (_status("auth_failed", "authentication failed"), Close(0, "")),  # seen: no closing handshake
    "auth_timeout": (_status("auth_timeout", "No authentication request received."), Close(1000, "")),
    "max_connections": (
        _status("max_connections", "Maximum number of websocket connections exceeded."), Close(1008, "max_connections")
    ),
    "slow_consumer": (_status("slow_consumer", "Not consuming data fast enough."), Close(1008, "")),
    "force_disconnect": (_status("force_disconnect", "Server maintenance."), Close(1000, "")),
    "error": (_status("error", "not authorized"),),
}  # fmt: skip


class Polygon(Conversation):
    """One connection.

    rules  ``keys`` {key: anything}, without it any key will do; ``connections_max`` (1): who comes later is sent away,
           after everything was acknowledged; ``not_in_plan``, clusters that are refused; ``topics_not_in_plan``, which
           are passed over in silence; ``contracts_max`` (1000); ``items_max``, messages in one frame at most (50);
           ``behind_data``: acknowledgements stand behind a minute's bar in their frame
    Errors are the statuses of NOTICES; how words of an ``error`` name a subscription is unverified.
    """

    notices = NOTICES

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        route = path.partition("?")[0].rstrip("/").rpartition("/")[2]
        self.cluster = route if route in TOPICS else cluster_of(venue)
        self._authenticated = False

    def opened(self) -> list[Reply]:
        return [_status("connected", "Connected Successfully")]

    def closed(self) -> None:
        if self._authenticated:
            self.venue.live -= 1
            self._authenticated = False

    def second(self) -> list[Reply]:
        if not self._authenticated and self.venue.now() - self.opened_ns > AUTH_TIMEOUT_NS:
            return self.said("auth_timeout")
        return []

    def received(self, message: str | bytes) -> list[Reply]:
        if due := self.error_due():
            return self.said(str(due))
        try:
            request = msgspec.json.decode(message)
            action, params = request["action"], str(request["params"])
        except (msgspec.DecodeError, TypeError, KeyError):
            return [_status("error", "invalid message")]
        if action == "auth":
            return self._auth(params)
        if not self._authenticated:
            return [_status("auth_failed", "not authenticated"), Close(0, "")]
        if action not in ("subscribe", "unsubscribe"):
            return [_status("error", f"unknown action {str(action)[:40]}")]
        said = [text for token in params.split(",") for text in self._one(action, token)]
        replies: list[Reply] = [_array(said)] if said else []
        if said and self.venue.rules.get("behind_data"):
            replies = [f"[{BAR},{_array(said)[1:]}"]
        if self.venue.live > int(str(self.venue.rules.get("connections_max", 1))):
            return [*replies, *self.said("max_connections")]
        return replies

    def _auth(self, key: str) -> list[Reply]:
        rules: dict[str, Any] = self.venue.rules
        if "keys" in rules and key not in rules["keys"]:
            return [_status("auth_failed", "authentication failed"), Close(0, "")]
        if self.cluster in rules.get("not_in_plan", ()):
            words = "Your plan doesn't include websocket access. Visit https://massive.com/pricing to upgrade."
            return [_status("auth_failed", words), Close(0, "")]
        if not self._authenticated:
            self.venue.live += 1
        self._authenticated = True
        return [_status("auth_success", "authenticated")]

    def _one(self, action: str, token: str) -> list[dict[str, str]]:
        """What is said about one token; nothing about a topic that there is not."""
        topic, _, name = token.partition(".")
        channel = TOPICS[self.cluster].get(topic)
        if channel is None or not name or topic in str(self.venue.rules.get("topics_not_in_plan", "")).split():
            return []
        if action == "unsubscribe":
            self.remove(channel, [name])
            return [_said("success", f"unsubscribed to: {token}")]
        if self.cluster == "options" and channel == QUOTES:
            if name == "*":
                return [_said("error", f"wildcard subscriptions are not allowed: {token}")]
            most = int(str(self.venue.rules.get("contracts_max", CONTRACTS_MAX)))
            if len(self.wanted.get(QUOTES, set()) | {name}) > most:
                return [_said("error", f"more than {most} contracts: {token}")]
        self.add(channel, [name])  # a name that nobody knows is acknowledged like any other
        return [_said("success", f"subscribed to: {token}")]

    def program(self) -> Program:
        items_max = int(str(self.venue.rules.get("items_max", 50)))
        trades, quotes = (
            Template(b"[", item[self.cluster].encode(), b"]", items_max=items_max) for item in (_TRADES, _QUOTES)
        )
        names = [name.encode() for name in self.venue.names]
        return compile_templates(trades, quotes, names, SIDES, self.venue.size_digits, TEXT)

    def key(self, payload: bytes) -> tuple[str, str] | None:
        messages = msgspec.json.decode(payload)
        first = messages[0] if isinstance(messages, list) and messages else {}
        topic = first.get("ev", "")
        channel = next((topics[topic] for topics in TOPICS.values() if topic in topics), None)
        return None if channel is None else (channel, first.get("sym") or first.get("pair") or first.get("T", ""))
