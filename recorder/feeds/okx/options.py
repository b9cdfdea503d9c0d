"""OKX's option contracts: their names, families and summaries.

https://www.okx.com/docs-v5/en/#public-data-websocket-option-summary-channel
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct, field

from recorder.core.batch import Scope
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND
from recorder.values.messages import NAN, TS_AHEAD_MAX, TS_EVENT_MIN, Id, Sent, known, misfit
from recorder.values.tables import CALL, PUT

CHANNEL = "opt-summary"
EXPIRY_HOUR = 8  # UTC, of everything that expires
_CONTRACT = re.compile(r"([A-Z0-9._]+-[A-Z0-9._]+)-(\d\d)(\d\d)(\d\d)-(\d+(?:\.\d+)?)-([CP])")

Contract = tuple[str, int, float, int]


class Summary(Struct, gc=False):
    """{"instId":"BTC-USD-250328-92000-C","uly":"BTC-USD","deltaBS":"0.5312","gammaBS":"0.0000134","thetaBS":"-0.0015",
    "vegaBS":"0.0038","markVol":"0.53","fwdPx":"92150.50","ts":"1711612800000", …}

    The Greeks are those of Black and Scholes, in dollars; what is called delta … without BS is in coins and not read.
    Captures write ``deltaBs``. Volatilities are fractions.
    """

    instId: str
    ts: Id  # ms
    markVol: Sent = ""
    fwdPx: Sent = ""
    deltaBS: Sent = ""
    gammaBS: Sent = ""
    thetaBS: Sent = ""
    vegaBS: Sent = ""
    delta_captured: Sent = field(default="", name="deltaBs")
    gamma_captured: Sent = field(default="", name="gammaBs")
    theta_captured: Sent = field(default="", name="thetaBs")
    vega_captured: Sent = field(default="", name="vegaBs")


def family_of(name: str) -> str | None:
    """``BTC-USD`` of ``BTC-USD-250328-92000-C``; None for what is no option contract."""
    found = _CONTRACT.fullmatch(name)
    return found[1] if found else None


def contract_of(name: str) -> Contract | None:
    """(underlying, expiration in ns, strike, CALL or PUT) of an option's name; None for everything else."""
    found = _CONTRACT.fullmatch(name)
    if found is None:
        return None
    try:
        expiry = datetime(2000 + int(found[2]), int(found[3]), int(found[4]), EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return None
    return found[1], int(expiry.timestamp()) * SECOND, float(found[5]), CALL if found[6] == "C" else PUT


def summary_rows(scope: Scope) -> Callable[[Summary, int], None]:
    """add(summary, ts_recv): one row. Raises FrameError."""
    contracts: dict[str, Contract | None] = {}
    provider = scope.text("provider")

    def add(item: Summary, ts_recv: int) -> None:
        if item.instId not in contracts:
            contracts[item.instId] = contract_of(item.instId)
        contract, ts_event = contracts[item.instId], item.ts * 1_000_000
        if contract is None:
            raise FrameError(f"{item.instId[:60]!r} is no option of OKX")
        if not TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(misfit(CHANNEL, ts_event, ts_recv))
        underlying, expiration, strike, kind = contract
        scope.options.append(
            ts_event, ts_recv, scope.feed_id, scope.text(item.instId), scope.text(underlying), expiration, strike, kind,
            NAN, NAN, NAN, NAN, NAN, NAN, NAN, known(item.markVol, CHANNEL) or NAN,
            _either(item.deltaBS, item.delta_captured), _either(item.gammaBS, item.gamma_captured),
            _either(item.thetaBS, item.theta_captured), _either(item.vegaBS, item.vega_captured), NAN, provider,
            known(item.fwdPx, CHANNEL) or NAN, 0,
        )  # fmt: skip

    return add


def _either(documented: Sent, captured: Sent) -> float:
    return known(captured if documented == "" else documented, CHANNEL)
