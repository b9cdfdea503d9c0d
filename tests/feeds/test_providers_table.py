"""README's table of what each provider gives is what the capability records say."""

from __future__ import annotations

from pathlib import Path

from test_conformance import symbols_for, variants

from recorder.feeds import ACTIONS, PROVIDERS, make
from recorder.values.errors import RecorderError
from recorder.values.feed import Capability, FeedSpec

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
STREAMS = ("websocket", "sse", "fix")
SENT = (
    "alpaca",
    "alphavantage",
    "bybit",
    "cboe",
    "deribit",
    "etrade",
    "okx",
    "polygon",
)  # whose chains have Greeks; else computed
TELLS_ACTIONS = (*ACTIONS, "alpaca_events")
HEAD = (
    "| provider | stream | poll | trades | quotes | bars | options | Greeks | corporate actions | history "
    "| loss detector |"
)


def capabilities(name: str) -> list[Capability]:
    """With every option, of every channel alone."""
    keys = {variable: "not-a-real-value" for variable in PROVIDERS[name].credentials}
    found = []
    for other, options in variants():
        given = {key: value for key, value in options.items() if key != "url"}
        for channel in PROVIDERS[name].channels if other == name else ():
            symbols = symbols_for(name, options, 1)
            try:
                spec = FeedSpec(
                    name="f", provider=name, options=given, channels=(channel,), symbols=symbols, url=options.get("url")
                )
                found.append(make(spec, keys).capability())
            except RecorderError:
                continue  # this option has no such channel, or such a symbol no options
    return found


def line(name: str) -> str:
    known, channels = capabilities(name), PROVIDERS[name].channels
    transports = {each.transport for each in known}
    remembered = {channel for each in known for channel in each.history_channels}
    detectors = {each.loss_detector for each in known} - {"none"}
    listed = [channel for channel in ("trades", "quotes", "bars") if channel in remembered]
    cells = [
        bool(transports & set(STREAMS)), "poll" in transports, *(c in channels for c in ("trades", "quotes", "bars")),
        "options" in channels,
    ]  # fmt: skip
    greeks = ("sent" if name in SENT else "computed") if "options" in channels else "–"
    return " | ".join(
        [f"| `{name}`", *("•" if cell else "–" for cell in cells), greeks, "•" if name in TELLS_ACTIONS else "–",
         ", ".join(listed) or "–", ", ".join(sorted(detectors)).replace("_", " ") or "–"]
    ) + " |"  # fmt: skip


def table() -> str:
    return "\n".join([HEAD, "|" + "---|" * HEAD.count(" | ") + "---|", *map(line, PROVIDERS)])


def test_what_each_provider_gives_is_what_its_capability_says() -> None:
    assert table() in README
