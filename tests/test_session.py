"""The connection state machine: backoff, holds, time-outs and fatal refusals, without a clock or a socket."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.session import BACKOFF_FIRST_NS, BACKOFF_MAX_NS, FATAL_RETRY_NS, HEALTHY_NS, Session, State
from recorder.values.feed import SECOND, Capability, Endpoint, Fatal, Ready, Reconnect, Renew, Send

CAPABILITY = Capability(
    channels=("trades",), loss_detector="none", scope="none", loss_size_known=False, trade_ids="opaque",
    connections_max=1, symbols_per_connection_max=10, subscribe_items_max=10, sends_per_second_max=1.0,
    connects_per_minute_max=60.0, hold_ns=0, life_ns=100 * SECOND,
)  # fmt: skip


class ScriptedFeed:
    """A feed that answers what the test tells it to."""

    overlap = False

    def __init__(self, **endpoint):
        self.answers = []
        self._endpoint = Endpoint(url="wss://example.org", **endpoint)

    def capability(self):
        return msgspec.structs.replace(CAPABILITY, overlap=self.overlap)

    def endpoint(self):
        return self._endpoint

    def on_open(self):
        return [Send("subscribe")]

    def on_control(self, payload):
        return self.answers


def opened(now=0, uniform=lambda: 1.0, overlap=False, **endpoint):
    feed = ScriptedFeed(**endpoint)
    feed.overlap = overlap
    session = Session(feed, uniform)
    session.on_opening()
    session.on_open(now)
    return feed, session


def ready(now=0, overlap=False):
    feed, session = opened(now, overlap=overlap)
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


def test_while_messages_wait_for_their_turn_to_be_sent_nobody_is_late_with_an_answer():
    _, session = opened(ready_timeout_ns=5 * SECOND)
    for second in range(1, 60):
        assert session.on_timer(second * SECOND, asking=second < 55) == []
    given_up = session.on_timer(60 * SECOND)
    assert given_up == [Reconnect("not subscribed 5 s after asking")]


@given(failures=st.integers(1, 40), uniform=st.floats(0, 1, exclude_max=True))
def test_backoff_grows_is_jittered_in_its_upper_half_and_stays_below_its_cap(failures, uniform):
    session = Session(ScriptedFeed(), lambda: uniform)
    for _ in range(failures):
        session.on_opening()
        wait = session.on_closed(0, "refused")
    expected = min(BACKOFF_MAX_NS, BACKOFF_FIRST_NS * 2 ** (failures - 1))
    assert wait <= expected
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


@pytest.mark.parametrize(("overlap", "command"), [(False, Reconnect), (True, Renew)])
def test_a_connection_is_renewed_once_before_the_provider_cuts_it(overlap, command):
    _, session = ready(overlap=overlap)
    assert session.on_timer(100 * SECOND) == []
    assert [type(c) for c in session.on_timer(100 * SECOND + 1)] == [command]
    assert [c for c in session.on_timer(200 * SECOND) if isinstance(c, Renew)] == []


def test_a_healthy_connection_whose_server_goes_away_is_opened_again_at_once():
    for code, wait in ((1001, 0), (1012, 0), (1006, BACKOFF_FIRST_NS)):
        _, session = ready()
        assert session.on_closed(HEALTHY_NS, "going away", code=code) == wait
        session.on_opening()
        session.on_open(HEALTHY_NS)
        assert session.on_closed(HEALTHY_NS, "going away again", code=code) > 0  # it has not become ready


def test_an_announced_shutdown_is_no_reason_to_wait_where_connections_may_not_overlap():
    feed, session = ready()
    feed.answers = [Renew("the provider announced a shutdown")]
    assert session.on_control(b"shutdown", SECOND) == [Reconnect("the provider announced a shutdown")]


def test_a_connection_that_is_mute_is_told_from_one_that_answers_something_else():
    for mute, reason in ((True, "mute: no message 15 s after opening"), (False, "not subscribed 15 s after opening")):
        _, session = opened()
        assert session.on_timer(15 * SECOND, mute=mute) == []
        assert session.on_timer(15 * SECOND + 1, mute=mute) == [Reconnect(reason)]


def test_subscriptions_that_change_do_not_make_a_connection_young_again():
    feed, session = ready()
    feed.answers = [Ready(("A", "B"))]
    session.on_control(b"ack", HEALTHY_NS - 1)
    assert session.on_closed(HEALTHY_NS, "cut") == BACKOFF_FIRST_NS


@settings(max_examples=30, deadline=None)
@given(lives=st.lists(st.integers(0, 120), min_size=100, max_size=300), seed=st.randoms(use_true_random=False))
def test_a_day_of_reconnects_is_never_a_storm_and_never_gives_up(lives, seed):
    """Connections that live a random time in readiness, or are refused (0), for a day: waits stay within their caps."""
    feed, session = ready()
    session._uniform = seed.random
    now, refused = 0, 0
    for life_s in lives:
        session.on_opening()
        if life_s:
            session.on_open(now)
            feed.answers = [Ready(("A",))]
            session.on_control(b"ack", now)
            now += life_s * SECOND
        healthy = life_s * SECOND >= HEALTHY_NS
        refused = 1 if healthy else refused + 1
        wait = session.on_closed(now, "cut")
        expected = min(BACKOFF_MAX_NS, BACKOFF_FIRST_NS * 2 ** min(refused - 1, 20))
        assert expected // 2 <= wait <= expected
        now += wait
