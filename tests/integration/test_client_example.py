"""The bundled client against a server that follows a script: it drops, refuses and repeats."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from client_example import (
    MAX_RECONNECTS,
    MAX_REPEATS,
    APIError,
    AuthenticationError,
    InvalidRequestError,
    JobFailedError,
    LLMClient,
    NotFoundError,
    RateLimitError,
    ServiceUnavailableError,
    ServiceUnreachableError,
    StreamReplacedError,
    WaitTimeoutError,
    main,
)

RETRY = b"retry: 1500\n\n"
TOKENS = ["Once", " upon", " a", " time", ", a d\u00f6g", "\n\nlived", "."]
TEXT = "".join(TOKENS)
RESULT = {"status": "completed", "task_id": "t", "result": TEXT, "metrics": {"prompt_tokens": 3}}


@dataclass(frozen=True)
class Asked:
    """A request that the client made."""

    method: str
    path: str
    headers: Message
    body: Any


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        wire: What follows the head, as it is on the wire, up to where the connection is cut.
        is_chunked: `wire` is in chunks; otherwise its end is the connection's.
    """

    status: int = 200
    wire: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chunked: bool = False


class HangUp(Exception):
    """The script's way to close the connection without an answer."""


Script = Callable[[Asked], Reply]


class Service:
    """A server that answers as its script says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.paused_s: list[float] = []
        self.script: Script = lambda asked: Reply(500)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.client = LLMClient(self.url, "key", sleep=self.paused_s.append)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, *replies: Reply) -> None:
        """Answer with these, in order."""
        rest = list(replies)
        self.script = lambda asked: rest.pop(0)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(content) if content else None
                asked = Asked(self.command, self.path, self.headers, body)
                service.asked.append(asked)
                try:
                    reply = service.script(asked)
                except HangUp:
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.is_chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(reply.wire)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("no_proxy", "*")
    service = Service()
    yield service
    service.close()


def answer(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(
        status, json.dumps(body).encode(), {k.replace("_", "-"): headers[k] for k in headers}
    )


def refusal(status: int, **headers: str) -> Reply:
    body = {"error": "No.", "status_code": status, "request_id": "r-1"}
    return answer(body, status, **headers)


def event(eid: int | None = None, **data: Any) -> bytes:
    head = "" if eid is None else f"id: {eid}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def token_events() -> list[bytes]:
    """A whole job: a change of status, its tokens, and its end with the last one."""
    *tokens, last = TOKENS
    return [
        event(status="processing", token=""),
        *(event(i, status="processing", token=t) for i, t in enumerate(tokens, start=1)),
        b": heartbeat\n\n",
        event(len(TOKENS), status="completed", token=last, result=TEXT),
    ]


def id_of(frame: bytes) -> int | None:
    return int(frame.split(b"\n")[0][4:]) if frame.startswith(b"id: ") else None


def after(asked: Asked, frames: list[bytes]) -> list[bytes]:
    """What the service sends to a client that has all events up to the one it names."""
    has = int(asked.headers.get("Last-Event-ID", 0))
    return [RETRY, *(f for f in frames if (id_of(f) or has + 1) > has)]


def in_chunks(frames: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(f), f) for f in frames) + b"0\r\n\r\n"


def stream(*frames: bytes, is_chunked: bool = True) -> Reply:
    wire = in_chunks(list(frames)) if is_chunked else b"".join(frames)
    return Reply(200, wire, {"Content-Type": "text/event-stream"}, is_chunked)


@pytest.mark.parametrize("is_chunked", [True, False])
def test_wherever_the_connection_is_cut_every_token_comes_once_and_in_order(
    service: Service, is_chunked: bool
) -> None:
    frames = token_events()
    whole = in_chunks([RETRY, *frames]) if is_chunked else b"".join([RETRY, *frames])
    for cut in range(len(whole)):
        service.asked.clear()

        def script(asked: Asked, cut: int = cut) -> Reply:
            if len(service.asked) == 1:
                return Reply(200, whole[:cut], is_chunked=is_chunked)
            return stream(*after(asked, frames), is_chunked=is_chunked)

        service.script = script
        assert list(service.client.stream("t")) == TOKENS, f"cut after {cut} bytes"


def test_a_stream_that_is_cut_after_each_event_is_resumed_after_each(service: Service) -> None:
    frames = token_events()

    def script(asked: Asked) -> Reply:
        left = after(asked, frames)
        news = next(i for i, f in enumerate(left) if id_of(f) is not None)
        return stream(*left[: news + 1])

    service.script = script
    assert list(service.client.stream("t")) == TOKENS
    presented = [asked.headers.get("Last-Event-ID") for asked in service.asked]
    assert presented == [None, *(str(eid) for eid in range(1, len(TOKENS)))]


def test_a_connection_that_is_closed_without_an_answer_is_resumed(service: Service) -> None:
    def script(asked: Asked) -> Reply:
        if len(service.asked) <= 3:
            raise HangUp
        return stream(*after(asked, token_events()))

    service.script = script
    assert list(service.client.stream("t")) == TOKENS


def test_the_pause_before_a_resumption_is_the_one_that_the_service_asked_for(
    service: Service,
) -> None:
    service.answer(stream(b"retry: 250\n\n", token_events()[1]), stream(*token_events()))
    assert list(service.client.stream("t")) == TOKENS
    assert service.paused_s == [0.25]


def test_events_that_the_service_repeats_are_not_yielded_again(service: Service) -> None:
    frames = token_events()
    service.answer(stream(*frames[:4]), stream(*frames))
    assert list(service.client.stream("t")) == TOKENS


def test_of_a_snapshot_only_what_is_new_is_yielded(service: Service) -> None:
    snapshot = event(9, status="completed", token="Once upon a time.", snapshot=True)
    service.answer(stream(*token_events()[:3]), stream(snapshot))
    assert list(service.client.stream("t")) == ["Once", " upon", " a time."]


def test_a_snapshot_that_is_behind_is_caught_up_with_in_silence(service: Service) -> None:
    service.answer(
        stream(*token_events()[:4]),
        stream(
            event(1, status="processing", token="On", snapshot=True),
            event(2, status="processing", token="ce upon a t"),
            event(3, status="completed", token="ime"),
        ),
    )
    assert "".join(service.client.stream("t")) == "Once upon a time"


@pytest.mark.parametrize("token", ["Twice upon", "Once"])
def test_a_snapshot_that_takes_back_what_was_yielded_is_an_error(
    service: Service, token: str
) -> None:
    snapshot = event(9, status="completed", token=token, snapshot=True)
    service.answer(stream(*token_events()[:3]), stream(snapshot))
    pieces = service.client.stream("t")
    assert [next(pieces), next(pieces)] == ["Once", " upon"]
    with pytest.raises(StreamReplacedError) as caught:
        next(pieces)
    assert caught.value.task_id == "t"


@pytest.mark.parametrize("status", ["failed", "expired"])
def test_a_failed_jobs_stream_ends_with_an_error_after_its_last_token(
    service: Service, status: str
) -> None:
    end = event(2, status=status, token=".", error_message="Too slow.", error_type="SlowError")
    service.answer(stream(token_events()[1], end))
    pieces = service.client.stream("t")
    assert [next(pieces), next(pieces)] == ["Once", "."]
    with pytest.raises(JobFailedError, match=r"Too slow\.") as caught:
        next(pieces)
    assert (caught.value.task_id, caught.value.error_type) == ("t", "SlowError")


def test_a_cancelled_jobs_stream_just_ends(service: Service) -> None:
    service.answer(stream(token_events()[1], event(2, status="cancelled", token=" up")))
    assert list(service.client.stream("t")) == ["Once", " up"]


def test_the_answer_that_there_is_nothing_more_ends_a_stream(service: Service) -> None:
    service.answer(Reply(204))
    assert list(service.client.stream("t")) == []


def test_a_stream_that_is_refused_for_the_moment_is_asked_for_again(service: Service) -> None:
    service.answer(
        refusal(429, Retry_After="7"), refusal(503), refusal(502), stream(*token_events())
    )
    assert list(service.client.stream("t")) == TOKENS
    assert service.paused_s == [7, 2, 2]


def test_a_stream_gives_up_when_the_service_stays_away(service: Service) -> None:
    service.script = lambda asked: refusal(502)
    with pytest.raises(APIError):
        list(service.client.stream("t"))
    assert len(service.asked) == 1 + MAX_RECONNECTS


def test_a_stream_of_an_unknown_task_is_not_asked_for_again(service: Service) -> None:
    service.answer(refusal(404))
    with pytest.raises(NotFoundError):
        list(service.client.stream("t"))
    assert service.paused_s == []


def test_a_stream_that_is_left_early_is_closed(service: Service) -> None:
    service.answer(stream(*token_events()))
    pieces = service.client.stream("t")
    next(pieces)
    del pieces  # an open connection would be a warning, and so an error


def test_generate_waits_for_the_result(service: Service) -> None:
    queued = answer({"status": "queued", "task_id": "t"}, 202)
    service.answer(queued, answer({"status": "processing"}, 202, Retry_After="1"), answer(RESULT))
    result = service.client.generate(prompt="Hi", max_tokens=100, temperature=0.8, wait=True)
    assert result["result"] == TEXT
    assert [(a.method, a.path) for a in service.asked] == [
        ("POST", "/generate"),
        ("GET", "/result/t"),
        ("GET", "/result/t"),
    ]
    assert service.asked[0].body == {"prompt": "Hi", "max_tokens": 100, "temperature": 0.8}


def test_generate_without_waiting_returns_the_answer_to_the_submission(service: Service) -> None:
    service.answer(answer({"status": "queued", "task_id": "t"}, 202))
    assert service.client.generate("Hi", wait=False) == {"status": "queued", "task_id": "t"}


def test_every_call_carries_the_key_and_a_task_id_cannot_leave_its_path(service: Service) -> None:
    service.script = lambda asked: answer({})
    client = service.client
    for call in (client.status, client.result, client.cancel):
        call("a/../b?c")
    client.submit(messages=[{"role": "user", "content": "Hi"}])
    client.health()
    assert {asked.headers["X-Api-Key"] for asked in service.asked} == {"key"}
    assert [(a.method, a.path) for a in service.asked] == [
        ("GET", "/status/a%2F..%2Fb%3Fc"),
        ("GET", "/result/a%2F..%2Fb%3Fc"),
        ("POST", "/tasks/a%2F..%2Fb%3Fc/cancel"),
        ("POST", "/generate"),
        ("GET", "/health"),
    ]


def test_a_submission_over_the_rate_is_repeated_after_the_pause_asked_for(
    service: Service,
) -> None:
    service.answer(
        refusal(429, Retry_After="3"), refusal(503, Retry_After="2"), answer({"task_id": "t"}, 202)
    )
    assert service.client.submit("Hi") == {"task_id": "t"}
    assert service.paused_s == [3, 2]
    assert [asked.body for asked in service.asked] == [{"prompt": "Hi"}] * 3


@pytest.mark.parametrize(
    ("status", "expected"), [(429, RateLimitError), (503, ServiceUnavailableError)]
)
def test_a_refusal_that_does_not_pass_is_told_after_some_repeats(
    service: Service, status: int, expected: type[APIError]
) -> None:
    service.script = lambda asked: refusal(status, Retry_After="4")
    with pytest.raises(expected) as caught:
        service.client.submit("Hi")
    assert caught.value.retry_after_s == 4
    assert len(service.asked) == 1 + MAX_REPEATS


def test_a_refusal_for_long_is_told_at_once(service: Service) -> None:
    service.answer(refusal(429, Retry_After="3600"))
    with pytest.raises(RateLimitError):
        service.client.submit("Hi")
    assert service.paused_s == []


def test_repeats_without_a_pause_asked_for_come_ever_later(service: Service) -> None:
    service.script = lambda asked: refusal(503)
    with pytest.raises(ServiceUnavailableError):
        service.client.submit("Hi")
    assert service.paused_s == [1, 2, 4, 8, 16]


def test_a_submission_without_an_answer_is_not_repeated(service: Service) -> None:
    def script(asked: Asked) -> Reply:
        raise HangUp

    service.script = script
    with pytest.raises(ServiceUnreachableError):
        service.client.submit("Hi")
    assert len(service.asked) == 1
    assert service.asked[0].headers["Idempotency-Key"] is None


def test_a_submission_with_an_idempotency_key_is_repeated_without_an_answer_too(
    service: Service,
) -> None:
    def script(asked: Asked) -> Reply:
        if len(service.asked) <= 2:
            raise HangUp
        return answer({"task_id": "t"}, 202)

    service.script = script
    submitted = service.client.generate("Hi", wait=False, idempotency_key="k-1", max_tokens=5)
    assert submitted == {"task_id": "t"}
    assert service.paused_s == [1, 2]
    assert [asked.headers["Idempotency-Key"] for asked in service.asked] == ["k-1"] * 3
    assert [asked.body for asked in service.asked] == [{"prompt": "Hi", "max_tokens": 5}] * 3


def test_a_service_that_stays_away_is_told_in_spite_of_an_idempotency_key(
    service: Service,
) -> None:
    def script(asked: Asked) -> Reply:
        raise HangUp

    service.script = script
    with pytest.raises(ServiceUnreachableError):
        service.client.submit("Hi", idempotency_key="k-1")
    assert len(service.asked) == 1 + MAX_REPEATS


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (404, NotFoundError),
        (410, NotFoundError),
        (413, InvalidRequestError),
        (422, InvalidRequestError),
        (500, APIError),
    ],
)
def test_an_error_says_what_the_service_said(
    service: Service, status: int, expected: type[APIError]
) -> None:
    service.answer(refusal(status))
    with pytest.raises(expected) as caught:
        service.client.submit("Hi")
    assert type(caught.value) is expected
    assert (caught.value.message, caught.value.status) == ("No.", status)
    assert caught.value.request_id == "r-1"


def test_an_error_page_from_between_is_told_by_its_status(service: Service) -> None:
    service.answer(Reply(502, b"<html>", {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}))
    with pytest.raises(APIError, match="502 Bad Gateway") as caught:
        service.client.status("t")
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("wire", [b"<html>", b"[]", b"\xff", b""])
def test_an_answer_that_is_not_the_services_is_told(service: Service, wire: bytes) -> None:
    service.answer(Reply(200, wire))
    with pytest.raises(ServiceUnreachableError, match="JSON"):
        service.client.health()


def test_an_answer_that_breaks_off_is_told(service: Service) -> None:
    service.answer(Reply(200, b'{"a"', {"Content-Length": "100"}))
    with pytest.raises(ServiceUnreachableError, match="broke off"):
        service.client.health()


def test_polls_come_ever_later_but_never_before_the_service_asks_for_them(
    service: Service,
) -> None:
    waiting = answer({"status": "queued"}, 202)
    service.answer(
        waiting, waiting, answer({"status": "queued"}, 202, Retry_After="1"), answer(RESULT)
    )
    assert service.client.wait("t") == RESULT
    assert service.paused_s == pytest.approx([0.1, 0.15, 1])


def test_waiting_goes_on_after_the_service_was_away(service: Service) -> None:
    def script(asked: Asked) -> Reply:
        if len(service.asked) == 1:
            raise HangUp
        return rest.pop(0)

    rest = [refusal(503, Retry_After="3"), refusal(502), answer(RESULT)]
    service.script = script
    assert service.client.wait("t") == RESULT
    assert service.paused_s == [2, 3, 2]


def test_waiting_gives_up_when_the_service_stays_away(service: Service) -> None:
    service.script = lambda asked: refusal(503)
    with pytest.raises(ServiceUnavailableError):
        service.client.wait("t")
    assert len(service.asked) == 1 + MAX_RECONNECTS


def test_waiting_for_a_failed_job_raises_its_error(service: Service) -> None:
    service.answer(answer({"status": "error", "error_message": "Broken.", "error_type": "Bad"}))
    with pytest.raises(JobFailedError, match=r"Broken\.") as caught:
        service.client.wait("t")
    assert (caught.value.task_id, caught.value.error_type) == ("t", "Bad")


def test_waiting_for_a_cancelled_job_returns_what_it_had(service: Service) -> None:
    service.answer(answer({"status": "cancelled", "result": "Once"}))
    assert service.client.wait("t")["result"] == "Once"


def test_waiting_ends_with_its_time(service: Service) -> None:
    service.answer(answer({"status": "processing"}, 202))
    with pytest.raises(WaitTimeoutError) as caught:
        service.client.wait("t", timeout_s=0)
    assert caught.value.task_id == "t"
    assert service.paused_s == []


def healthy(**more: Any) -> Reply:
    return answer({"status": "healthy", "model": "m", "backend": "b", "state": "ready", **more})


def test_the_demo_shows_a_stream_and_a_cancel(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answer(
        healthy(),
        answer({"task_id": "one"}, 202),
        stream(*token_events()),
        answer(RESULT),
        answer({"task_id": "two"}, 202),
        stream(*token_events()),
        answer({"status": "processing"}, 202),
        answer({"status": "cancelled", "metrics": {"completion_tokens": 2}}),
    )
    monkeypatch.setenv("BASE_URL", service.url)
    monkeypatch.setenv("API_KEY", "from-environment")
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert TEXT in shown
    assert "cancelled after 2" in shown
    assert {asked.headers["X-Api-Key"] for asked in service.asked} == {"from-environment"}


def test_the_demo_says_where_nothing_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--base-url", url]) == 1
    assert f"Nothing answers at {url}" in capsys.readouterr().err


def test_the_demo_tells_why_the_service_refuses(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(healthy(), refusal(401))
    assert main(["--base-url", service.url, "--api-key", "wrong"]) == 1
    assert "No. (request r-1)" in capsys.readouterr().err


def test_the_demo_tells_why_no_model_can_be_loaded(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(healthy(status="unhealthy", state="error", reason="No such model."))
    assert main(["--base-url", service.url]) == 1
    assert "No such model." in capsys.readouterr().out
