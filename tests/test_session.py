"""The connection state machine: backoff, holds, time-outs and fatal refusals, without a clock or a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.session import BACKOFF_FIRST_NS, BACKOFF_MAX_NS, FATAL_RETRY_NS, HEALTHY_NS, Session, State
from recorder.values.feed import SECOND, Capability, Endpoint, Fatal, Ready, Reconnect, Send

CAPABILITY = Capability(
    channels=("trades",), loss_detector="none", scope="none", loss_size_known=False, trade_ids="opaque",
    connections_max=1, symbols_per_connection_max=10, subscribe_items_max=10, sends_per_second_max=1.0,
    connects_per_minute_max=60.0, hold_ns=0, life_ns=100 * SECOND,
)  # fmt: skip


class ScriptedFeed:
    """A feed that answers what the test tells it to."""

    def __init__(self, **endpoint):
        self.answers = []
        self._endpoint = Endpoint(url="wss://example.org", **endpoint)

    def capability(self):
        return CAPABILITY

    def endpoint(self):
        return self._endpoint

    def on_open(self):
        return [Send("subscribe")]

    def on_control(self, payload):
        return self.answers


def opened(now=0, uniform=lambda: 1.0, **endpoint):
    feed = ScriptedFeed(**endpoint)
    session = Session(feed, uniform)
    session.on_opening()
    session.on_open(now)
    return feed, session


def ready(now=0):
    feed, session = opened(now)
    feed.answers = [Ready(("A",))]
    session.on_control(b"ack", now)
    feed.answers = []
    return feed, session


def test_opening_sends_what_the_feed_asks_and_an_acknowledgement_makes_it_ready():
    feed, session = opened()
    assert session.state is State.SUBSCRIBING
    feed.answers = [Ready(("A",))]
    session.on_control(b"ack", SECOND)
    assert session.state is State.READY


def test_a_subscription_never_acknowledged_is_given_up():
    _, session = opened(ready_timeout_ns=5 * SECOND)
    assert session.on_timer(5 * SECOND) == []
    assert isinstance(session.on_timer(5 * SECOND + 1)[0], Reconnect)


@given(failures=st.integers(1, 40), uniform=st.floats(0, 1, exclude_max=True))
def test_backoff_grows_is_jittered_in_its_upper_half_and_stays_below_its_cap(failures, uniform):
    session = Session(ScriptedFeed(), lambda: uniform)
    for _ in range(failures):
        session.on_opening()
        wait = session.on_closed(0, "refused")
    expected = min(BACKOFF_MAX_NS, BACKOFF_FIRST_NS * 2 ** (failures - 1))
    assert wait <= max(expected, SECOND)
    assert wait >= expected // 2


def test_a_healthy_connection_starts_the_backoff_over_and_a_short_one_does_not():
    _, session = ready()
    for _ in range(5):
        session.on_closed(0, "refused")
    session.on_opening()
    session.on_open(0)
    session.feed.answers = [Ready()]
    session.on_control(b"ack", 0)
    assert session.on_closed(HEALTHY_NS - 1, "cut") > 10 * BACKOFF_FIRST_NS
    session.on_opening()
    session.on_open(0)
    session.on_control(b"ack", 0)
    assert session.on_closed(HEALTHY_NS, "cut") == BACKOFF_FIRST_NS


@pytest.mark.parametrize("hold", [7 * SECOND, 90 * SECOND])
def test_a_hold_asked_by_the_provider_is_never_undercut(hold):
    feed, session = ready()
    feed.answers = [Reconnect("connection limit", hold)]
    session.on_control(b"406", 0)
    assert session.on_closed(0, "closed") >= hold


def test_retry_after_is_obeyed_and_forgotten_at_the_next_try():
    _, session = ready()
    assert session.on_closed(0, "429", retry_after_ns=120 * SECOND) == 120 * SECOND
    session.on_opening()
    assert session.on_closed(0, "refused") < 120 * SECOND


def test_a_fatal_refusal_keeps_its_reason_and_is_retried_seldom():
    feed, session = opened()
    feed.answers = [Fatal("auth failed: check APCA_API_KEY_ID")]
    session.on_control(b"402", 0)
    assert session.on_closed(0, "closed by peer") >= FATAL_RETRY_NS
    assert session.reason == "auth failed: check APCA_API_KEY_ID"


def test_a_providers_own_ping_is_sent_when_due_and_only_then():
    _, session = opened(app_ping=b'{"method":"ping"}', app_ping_ns=30 * SECOND, ready_timeout_ns=10**12)
    sent = [now for now in range(0, 100 * SECOND, SECOND) if session.on_timer(now)]
    assert sent == [30 * SECOND, 60 * SECOND, 90 * SECOND]


def test_a_connection_is_renewed_before_the_provider_cuts_it():
    _, session = ready()
    assert session.on_timer(100 * SECOND) == []
    assert isinstance(session.on_timer(100 * SECOND + 1)[0], Reconnect)
