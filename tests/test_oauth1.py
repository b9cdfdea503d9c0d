"""OAuth 1.0a signatures: published ones, and those of another implementation for whatever else may be signed."""

from __future__ import annotations

import re
import string
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oauthlib.oauth1.rfc5849 import signature as other

from recorder.core.oauth1 import NO_TOKEN, Credential, authorization, base_string, problem_of, signature, token_of
from recorder.values.errors import FrameError

CONSUMER = Credential("dpf43f3p2l4k3l03", "kd94hf93k423kf44")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
NAME = st.text(string.ascii_letters + string.digits + "-._~ +&=%", min_size=1, max_size=12)


def test_the_signature_of_the_first_specification_comes_out() -> None:
    """OAuth Core 1.0, appendix A.5.2"""
    header = authorization(
        "GET", "http://photos.example.net/photos?file=vacation.jpg&size=original", CONSUMER,
        Credential("nnch734d00sl2jdk", "pfkkdhi9sl3r4s00"), time_s=1191242096, nonce="kllo9940pd9333jh",
    )  # fmt: skip
    assert header.startswith("OAuth ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', header))
    assert fields == {
        "oauth_consumer_key": "dpf43f3p2l4k3l03", "oauth_token": "nnch734d00sl2jdk",
        "oauth_signature_method": "HMAC-SHA1", "oauth_signature": "tR3%2BTy81lMeYAr%2FFid0kMTYa%2FWM%3D",
        "oauth_timestamp": "1191242096", "oauth_nonce": "kllo9940pd9333jh", "oauth_version": "1.0",
    }  # fmt: skip


def test_the_signature_of_the_rfc_comes_out() -> None:
    """RFC 5849, §1.2: without a version"""
    parameters = [
        ("oauth_consumer_key", CONSUMER.key), ("oauth_token", "nnch734d00sl2jdk"), ("oauth_nonce", "chapoH"),
        ("oauth_signature_method", "HMAC-SHA1"), ("oauth_timestamp", "137131202"),
    ]  # fmt: skip
    base = base_string("GET", "http://photos.example.net/photos?file=vacation.jpg&size=original", parameters)
    assert signature(base, CONSUMER.secret, "pfkkdhi9sl3r4s00") == "MdpQcU8iPSUjWoN/UDMsK2sui9I="


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://EXAMPLE.COM:80/r%20v/X?id=123", "http://example.com/r%20v/X"),  # RFC 5849, §3.4.1.2
        ("https://www.example.net:8080/?q=1", "https://www.example.net:8080/"),
        ("https://api.example.com:443", "https://api.example.com/"),
        ("https://a.example/v1/quote/A,B:C.json", "https://a.example/v1/quote/A,B:C.json"),  # as it is sent
    ],
)
def test_what_is_signed_names_the_place_in_one_way(url: str, place: str) -> None:
    assert base_string("get", url, []).split("&")[:2] == ["GET", quote(place, safe="")]


@settings(deadline=None)
@given(
    query=st.lists(st.tuples(NAME, TEXT), max_size=5), path=TEXT, secrets=st.tuples(TEXT, TEXT), key=TEXT,
    token=st.text(min_size=1, max_size=20, alphabet=string.printable.strip()), nonce=TEXT,
    extra=st.lists(st.tuples(st.sampled_from(["oauth_verifier", "oauth_callback"]), TEXT), max_size=1),
)  # fmt: skip
def test_whatever_is_signed_is_accepted_by_another_implementation(
    query: list[tuple[str, str]], path: str, secrets: tuple[str, str], key: str, token: str, nonce: str,
    extra: list[tuple[str, str]],
) -> None:  # fmt: skip
    url = f"https://api.example.com/{quote(path)}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    header = authorization(
        "GET", url, Credential(key, secrets[0]), Credential(token, secrets[1]), time_s=1_790_000_000, nonce=nonce,
        extra=extra,
    )  # fmt: skip
    assert header.isascii()
    parameters = other.collect_parameters(uri_query=urlsplit(url).query, headers={"Authorization": header})
    found = re.search(r'oauth_signature="([^"]*)"', header)
    assert found
    request = SimpleNamespace(http_method="GET", uri=url, params=parameters, signature=unquote(found[1]))
    assert other.verify_hmac_sha1(request, *secrets)
    assert not other.verify_hmac_sha1(request, secrets[0] + "x", secrets[1])


def test_without_a_token_none_is_named() -> None:
    assert "oauth_token" not in authorization("GET", "https://a.example/", CONSUMER, NO_TOKEN, time_s=1, nonce="n")


@settings(deadline=None)
@given(TEXT.filter(bool), TEXT.filter(bool))
def test_a_token_is_read_from_a_form_as_it_was_meant(key: str, secret: str) -> None:
    body = urlencode({"oauth_token": key, "oauth_token_secret": secret, "oauth_callback_confirmed": "true"})
    found = token_of(body.encode() + b"\n")
    assert (found.key, found.secret) == (key, secret)
    assert repr(found) == "Credential()"


@pytest.mark.parametrize(
    "body", [b"", b"oauth_token=a", b"<html>", b"\xff", b"a=b&" * 100, b"oauth_token_secret=very-secret"]
)
def test_an_answer_without_a_token_is_refused_and_not_repeated(body: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        token_of(body)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"Error":{"message":"oauth_problem=token_expired"}}', "token_expired"),
        (b"<h1>HTTP Status 401 - oauth_problem=token_rejected</h1>", "token_rejected"),
        (b"oauth_problem=timestamp_refused&oauth_acceptable_timestamps=1-2", "timestamp_refused"),
        (b"oauth_problem=", ""),
        (b"Unauthorized", ""),
        (b"", ""),
    ],
)
def test_the_word_for_a_problem_is_found_wherever_it_stands(body: bytes, problem: str) -> None:
    assert problem_of(body) == problem
