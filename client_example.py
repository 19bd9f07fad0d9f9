"""A client for the service, in one file that needs nothing but Python's standard library.

    client = LLMClient(base_url="http://localhost:8000", api_key="test-key-123")
    print(client.generate(prompt="Once upon a time", max_tokens=100)["result"])

    task_id = client.submit("Tell me a story.")["task_id"]
    for text in client.stream(task_id):
        print(text, end="", flush=True)

Copy it into your own program, or run it: `python client_example.py` shows all of it live. It is one
long file because it is meant to be copied.

What can go wrong:
    LLMError
    |-- ServiceUnreachableError       nothing answers, or the connection broke
    |-- APIError                      the service answered with an error
    |   |-- InvalidRequestError       400, 413, 422
    |   |-- AuthenticationError       401
    |   |-- NotFoundError             404, 410
    |   |-- RateLimitError            429, after as many repeats as the client makes
    |   `-- ServiceUnavailableError   503, likewise
    `-- JobError                      the job was accepted, and then
        |-- JobFailedError            it failed or expired
        |-- StreamReplacedError       its text was replaced while it was streamed
        `-- WaitTimeoutError          it did not end in time; it goes on
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]

MAX_REPEATS = 5
"""Repeats of a call that was refused for the moment."""
MAX_REPEAT_PAUSE_S = 60.0
"""Where the service asks for a longer pause, the call is not repeated."""
MAX_RECONNECTS = 15
"""Attempts in a row to go on with a wait or a stream while the service is away."""
RECONNECT_S = 2.0
"""Pause between these attempts, until the service says otherwise."""
FIRST_POLL_S = 0.1
LONGEST_POLL_S = 5.0
POLL_GROWTH = 1.5


class LLMError(Exception):
    """The root of the tree. What is not known, or does not apply, is None.

    Attributes:
        message: What went wrong, for a person to read.
        status: The HTTP status.
        request_id: Finds the request in the service's log.
        retry_after_s: Seconds after which a repeat may succeed.
        task_id: The job.
        error_type: The name of what ended the job, as the service gives it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        task_id: str | None = None,
        error_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.task_id = task_id
        self.error_type = error_type


class ServiceUnreachableError(LLMError):
    """Nothing answers at the address, or the connection broke before the answer was complete."""


class APIError(LLMError):
    """The service answered with an error; `status` is known."""


class InvalidRequestError(APIError):
    """The request is malformed, too large, or one of its parameters is out of range."""


class AuthenticationError(APIError):
    """The API key is missing or wrong."""


class NotFoundError(APIError):
    """There is no such task (any more), or it belongs to another key."""


class RateLimitError(APIError):
    """The API key has used up its rate."""


class ServiceUnavailableError(APIError):
    """The service cannot take the call right now: its queue is full, or a part of it is away."""


class JobError(LLMError):
    """Something about one job; `task_id` is known."""


class JobFailedError(JobError):
    """The job ended without a result; `error_type` is known."""


class StreamReplacedError(JobError):
    """The job was begun anew, and what its stream handed out is not its text any more."""


class WaitTimeoutError(JobError):
    """The job has not ended within the time; it goes on, and can be waited for again."""


_ERRORS: Mapping[int, type[APIError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    404: NotFoundError,
    410: NotFoundError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitError,
    503: ServiceUnavailableError,
}


class LLMClient:
    """Submits prompts, and fetches or streams what is generated. Threads may share one."""

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        api_key: str = "test-key-123",
        timeout_s: float = 30.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Say where the service is.

        Args:
            base_url: Scheme, host and port.
            api_key: Sent with every call.
            timeout_s: Silence after which a connection counts as broken; more than the 15 s
                between two signs of life in a stream.
            sleep: Waits for so many seconds; a seam for tests.
        """
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._sleep = sleep

    def health(self) -> JSON:
        """The state of the service: `status`, `state`, `version`, `model`, `queue`, ..."""
        return self._call("GET", "/health").body

    def generate(
        self, prompt: str, wait: bool = True, *, wait_timeout_s: float = 600.0, **options: Any
    ) -> JSON:
        """Generate text.

        Args:
            prompt: What to answer or continue.
            wait: Return the result; otherwise the answer to the submission, at once.
            wait_timeout_s: Seconds to wait at most.
            options: Further fields of `POST /generate`, such as `max_tokens` and `temperature`,
                or `submit`'s `idempotency_key`.

        Returns:
            With `wait`, what `wait()` returns: the text is in `result`. Otherwise what `submit()`
            returns.

        Raises:
            LLMError: See `submit` and `wait`.
        """
        submitted = self.submit(prompt, **options)
        return self.wait(submitted["task_id"], wait_timeout_s) if wait else submitted

    def submit(
        self, prompt: str | None = None, *, idempotency_key: str | None = None, **options: Any
    ) -> JSON:
        """Put a job in line.

        Args:
            prompt: What to answer or continue; None where `messages` is among the options.
            idempotency_key: Your own name for this submission, such as a UUID: within 24 hours it
                makes one job, however often it is sent. A broken connection is then repeated too.
            options: Further fields of `POST /generate`.

        Returns:
            `task_id`, `status`, and the addresses to follow it.

        Raises:
            APIError: It was refused, after repeats where one could help.
            ServiceUnreachableError: Nothing answered. The job may have been accepted all the
                same, which is why without `idempotency_key` this is not repeated.
        """
        body = options if prompt is None else {"prompt": prompt, **options}
        return self._call("POST", "/generate", body, idempotency_key).body

    def status(self, task_id: str) -> JSON:
        """Where a job is: `status`, `message`, `queue_position`, `progress`, ..."""
        return self._call("GET", f"/status/{_quoted(task_id)}").body

    def result(self, task_id: str) -> JSON:
        """What a job has generated, as it stands: `status` says whether it has ended.

        `completed` and `cancelled` come with `result` and `metrics`, `error` with `error_message`
        and `error_type`; anything else means "not yet".
        """
        return self._call("GET", f"/result/{_quoted(task_id)}").body

    def cancel(self, task_id: str) -> JSON:
        """Cancel a job; one that has ended stays as it is. Safe to repeat."""
        return self._call("POST", f"/tasks/{_quoted(task_id)}/cancel").body

    def wait(self, task_id: str, timeout_s: float = 600.0) -> JSON:
        """Poll until a job has ended, no more often than the service asks for.

        Returns:
            `result`, `metrics` and more; `status` is `completed` or `cancelled`.

        Raises:
            JobFailedError: It failed or expired.
            WaitTimeoutError: It has not ended within `timeout_s` seconds.
            LLMError: The service refused to answer, or was away for too long.
        """
        end_s = time.monotonic() + timeout_s
        poll_s = FIRST_POLL_S
        outage = _Outage()
        while True:
            try:
                answer = self._call_once("GET", f"/result/{_quoted(task_id)}")
                if _has_ended(answer.body, task_id):
                    return answer.body
                outage.end()
                pause_s = max(poll_s, answer.retry_after_s or 0.0)
                poll_s = min(poll_s * POLL_GROWTH, LONGEST_POLL_S)
            except (ServiceUnreachableError, APIError) as error:
                pause_s = outage.pause_s(error)
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise WaitTimeoutError(f"Not ended within {timeout_s:g} s.", task_id=task_id)
            self._sleep(min(pause_s, left_s))

    def stream(self, task_id: str) -> Iterator[str]:
        """Yield a job's text as it is generated, from its beginning to its end.

        Put together, the pieces are the result. A connection that breaks is resumed where it
        stopped: nothing is left out, and nothing comes twice. A cancelled job's stream ends like
        any other.

        Raises:
            JobFailedError: The job failed or expired.
            StreamReplacedError: The job's text was replaced by another one.
            LLMError: The service refused, or was away for too long.
        """
        text = _StreamedText(task_id)
        outage = _Outage()
        while not text.is_complete:
            try:
                with closing(self._events(task_id, text.last_event_id)) as events:
                    for event in events:
                        outage.end(event.retry_s)
                        piece = text.take(event)
                        if piece:
                            yield piece
                        if text.is_complete:
                            break
                    else:
                        raise ServiceUnreachableError("The stream breaks off again and again.")
            except (ServiceUnreachableError, APIError) as error:
                self._sleep(outage.pause_s(error))
        if text.failure is not None:
            raise text.failure

    def _events(self, task_id: str, last_event_id: int) -> Generator[ServerEvent, None, None]:
        """The events after an id, until the connection ends for whatever reason."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id:
            headers["Last-Event-ID"] = str(last_event_id)
        with self._open("GET", f"/stream/{_quoted(task_id)}", headers=headers) as response:
            if response.status == http.client.NO_CONTENT:
                yield ServerEvent(is_end=True)
            yield from parse_events(_whole_lines(response))

    def _call(
        self, method: str, path: str, body: JSON | None = None, idempotency_key: str | None = None
    ) -> _Answer:
        """Ask, and ask again where the service says that it cannot answer right now.

        With an idempotency key, also where there is no telling whether it was heard.
        """
        headers: dict[str, str] = {}
        passing: tuple[type[LLMError], ...] = (RateLimitError, ServiceUnavailableError)
        if idempotency_key is not None:
            headers = {"Idempotency-Key": idempotency_key}
            passing += (ServiceUnreachableError,)
        num_repeats = 0
        while True:
            try:
                return self._call_once(method, path, body, headers)
            except passing as error:
                pause_s = error.retry_after_s or 2.0**num_repeats
                num_repeats += 1
                if num_repeats > MAX_REPEATS or pause_s > MAX_REPEAT_PAUSE_S:
                    raise
                self._sleep(pause_s)

    def _call_once(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        try:
            with self._open(method, path, body, headers) as response:
                content = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnreachableError(f"{self.base_url} broke off: {error}") from error
        except ValueError as error:
            raise ServiceUnreachableError(f"{self.base_url} does not answer in JSON.") from error
        if not isinstance(content, dict):
            raise ServiceUnreachableError(f"{self.base_url} does not answer with a JSON object.")
        return _Answer(content, _seconds(response.headers.get("Retry-After")))

    def _open(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Begin a call; whoever asked for it reads and closes the answer."""
        request = urllib.request.Request(
            self.base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "X-API-Key": self._api_key,
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=self._timeout_s
            )
        except urllib.error.HTTPError as error:
            with error:
                raise _api_error(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServiceUnreachableError(
                f"Nothing answers at {self.base_url}: {reason}"
            ) from error
        return response


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event.

    Attributes:
        event_id: Its place in the stream; None where it has none.
        data: What it says; None where it only sets `retry_s`.
        retry_s: Seconds to wait before the stream is resumed.
        is_end: There are no more events after the one whose id was presented.
    """

    event_id: int | None = None
    data: JSON | None = None
    retry_s: float | None = None
    is_end: bool = False


def parse_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Read server-sent events; one that its connection cut off is dropped.

    Args:
        lines: Complete lines without their ends.

    Source:
        HTML Living Standard, section 9.2, Server-sent events.
    """
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            # Data may be spread over lines; of the other fields the last one counts.
            fields[name] = f"{fields[name]}\n{value}" if name == "data" in fields else value
            continue
        data, event_id, retry_ms = fields.get("data"), fields.get("id"), fields.get("retry")
        if data is not None or retry_ms is not None:
            yield ServerEvent(
                event_id=int(event_id) if event_id else None,
                data=json.loads(data) if data is not None else None,
                retry_s=int(retry_ms) / 1000 if retry_ms else None,
            )
        fields = {}


@dataclass(frozen=True)
class _Answer:
    body: JSON
    retry_after_s: float | None


class _Outage:
    """Counts the failures in a row, and says how long to pause after each."""

    def __init__(self) -> None:
        self._pause_s = RECONNECT_S
        self._num_failures = 0

    def end(self, pause_s: float | None = None) -> None:
        """The service has answered, and may have said how long to pause when it is away."""
        self._num_failures = 0
        if pause_s is not None:
            self._pause_s = pause_s

    def pause_s(self, error: ServiceUnreachableError | APIError) -> float:
        """Seconds to pause; raises the error where it will not pass, or has lasted too long."""
        self._num_failures += 1
        is_final = error.status is not None and error.status < 500 and error.status != 429
        if is_final or self._num_failures > MAX_RECONNECTS:
            raise error
        return max(self._pause_s, error.retry_after_s or 0.0)


class _StreamedText:
    """What a stream has handed out of a job's text, and where to go on."""

    def __init__(self, task_id: str) -> None:
        self.last_event_id = 0
        self.is_complete = False
        self.failure: JobFailedError | None = None
        self._task_id = task_id
        self._shown = ""
        self._position = 0  # of the stream in the text; behind its end after a snapshot

    def take(self, event: ServerEvent) -> str:
        """What is new in an event.

        Raises:
            StreamReplacedError: It contradicts what was handed out.
        """
        self.is_complete = event.is_end
        data = event.data or {}
        if data.get("snapshot"):
            self._position = 0
        elif event.event_id is not None and event.event_id <= self.last_event_id:
            return ""
        self.last_event_id = event.event_id or self.last_event_id
        piece = self._unseen(str(data.get("token") or ""))
        status = data.get("status")
        if status in ("completed", "cancelled", "failed", "expired"):
            self._check(self._position == len(self._shown))
            self.is_complete = True
        if status in ("failed", "expired"):
            self.failure = _failure(data, self._task_id)
        return piece

    def _unseen(self, token: str) -> str:
        seen = self._shown[self._position : self._position + len(token)]
        self._check(token.startswith(seen))
        piece = token[len(seen) :]
        self._shown += piece
        self._position += len(token)
        return piece

    def _check(self, is_same_text: bool) -> None:
        if not is_same_text:
            raise StreamReplacedError(
                "The job was begun anew, with another text. `result()` has the whole of it.",
                task_id=self._task_id,
            )


def _whole_lines(response: http.client.HTTPResponse) -> Iterator[str]:
    """The lines of an answer until its connection ends, in whichever way."""
    try:
        for line in response:
            if line.endswith(b"\n"):
                yield line.decode().rstrip("\r\n")
    except (OSError, http.client.HTTPException):
        return


def _has_ended(result: JSON, task_id: str) -> bool:
    if result.get("status") == "error":
        raise _failure(result, task_id)
    return result.get("status") in ("completed", "cancelled")


def _failure(data: JSON, task_id: str) -> JobFailedError:
    message = data.get("error_message") or data.get("message") or "The job failed."
    error_type = str(data.get("error_type") or "JobError")
    return JobFailedError(str(message), task_id=task_id, error_type=error_type)


def _api_error(error: urllib.error.HTTPError) -> APIError:
    try:
        body = json.loads(error.read())
    except (OSError, http.client.HTTPException, ValueError):
        body = None
    # Something between here and the service may have answered in its place.
    known = body if isinstance(body, dict) else {}
    return _ERRORS.get(error.code, APIError)(
        str(known.get("error") or f"{error.code} {error.reason}"),
        status=error.code,
        request_id=known.get("request_id"),
        retry_after_s=_seconds(error.headers.get("Retry-After")),
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdecimal() else None


def _quoted(task_id: str) -> str:
    return urllib.parse.quote(task_id, safe="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the client at work; the exit status."""
    options = _parser().parse_args(arguments)
    client = LLMClient(options.base_url, options.api_key)
    try:
        _show_health(client)
        _show_stream(client, options.prompt, options.max_tokens)
        _show_cancel(client, options.prompt)
    except ServiceUnreachableError as error:
        print(f"\nError: {error.message}", file=sys.stderr)
        print("Start it with `make up`, or say where it is: --base-url URL", file=sys.stderr)
        return 1
    except LLMError as error:
        where = f" (request {error.request_id})" if error.request_id else ""
        print(f"\nError: {error.message}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _show_health(client: LLMClient) -> None:
    health = client.health()
    print(f"{client.base_url} is {health['status']}: {health['model']} on {health['backend']}")
    if health.get("reason"):
        print(f"  {health['reason']}")
    if health.get("state") == "error":
        raise ServiceUnavailableError("The service cannot generate anything right now.")


def _show_stream(client: LLMClient, prompt: str, max_tokens: int) -> None:
    task_id = client.submit(prompt, max_tokens=max_tokens)["task_id"]
    print(f"\n> {prompt}\n  (task {task_id})\n")
    for piece in client.stream(task_id):
        print(piece, end="", flush=True)
    result = client.wait(task_id)
    print(f"\n\nThe result has {len(result['result'])} characters. Metrics:")
    for name, value in result["metrics"].items():
        print(f"  {name:<20} {value}")


def _show_cancel(client: LLMClient, prompt: str) -> None:
    # Long enough to be still running when the cancel arrives.
    task_id = client.submit(prompt, max_tokens=500, ignore_eos=True)["task_id"]
    for _ in client.stream(task_id):
        break
    client.cancel(task_id)
    result = client.wait(task_id)
    num_tokens = result["metrics"]["completion_tokens"]
    print(f"\nA second task of 500 tokens was cancelled: {result['status']} after {num_tokens}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Show the client at work.")
    parser.add_argument(
        "--base-url",
        default=os.environ.get("BASE_URL") or "http://localhost:8000",
        help="where the service is (default: BASE_URL, else http://localhost:8000)",
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get("API_KEY") or "test-key-123",
        help="the key to use (default: API_KEY, else test-key-123)",
    )
    parser.add_argument("--prompt", default="Once upon a time", help="(default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=120, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
