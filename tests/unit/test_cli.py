"""The command line, what `up` tells its user, and how `worker` divides the devices."""

from __future__ import annotations

import json
import shlex
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from cli.up import Gateway, Progress, check_can_listen, curl_line, process_tree
from common.errors import SettingsError
from common.settings import Settings, load_settings, to_text
from tests.ports import free_port
from worker import launcher
from worker.hand_back import LAUNCH_ID
from worker.launcher import choose_devices, worker_child

REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which `baton worker` would have run."""
    settings: list[Settings] = []

    def run(given: Settings) -> int:
        settings.append(given)
        return 0

    monkeypatch.setattr(launcher, "run", run)
    return settings


# Flags


@pytest.mark.parametrize("command", ["up", "api", "worker"])
def test_every_setting_is_a_flag_with_its_description_and_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, setting in Settings.model_fields.items():
        assert f" --{name.replace('_', '-')} " in shown
        default = to_text(setting.get_default()) or "none"
        assert f"{setting.description} (default: {default})" in shown


def test_a_flag_reaches_the_command_and_beats_the_environment(
    received: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BATCH_SIZE", "2")
    monkeypatch.setenv("MODEL_NAME", "from-environment")
    assert main(["worker", "--redis-url", REDIS, "--max-batch-size=3", "--log-prompts"]) == 0
    (settings,) = received
    assert settings.redis_url == REDIS
    assert settings.max_batch_size == 3
    assert settings.model_name == "from-environment"
    assert settings.log_prompts


def test_the_server_settings_of_the_users_document_are_taken_as_they_are_printed_there(
    received: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The usage examples of 004_d314d6d6ae5d2d3d.txt; 002_a975337e2d09907a.txt has --dtype.
    own = ["worker", "--redis-url", REDIS, "--api-keys", "SECRET"]
    printed = shlex.split("--host 0.0.0.0 --port 8000 --log-level debug --dtype float16")
    monkeypatch.setenv("PORT", "9000")
    assert main([*own, *printed]) == 0
    (settings,) = received
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert (settings.log_level, settings.dtype) == ("DEBUG", "float16")


def test_a_switch_can_be_set_to_false(
    received: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_PROMPTS", "true")
    assert main(["worker", "--redis-url", REDIS, "--log-prompts=false"]) == 0
    assert not received[0].log_prompts


def test_an_empty_flag_is_an_unset_one(received: list[Settings]) -> None:
    assert main(["worker", "--redis-url", REDIS, "--model-name", ""]) == 0
    assert received[0].model_name == "baton-toy"


@pytest.mark.parametrize(
    "arguments", [[], ["down"], ["up", "--modelname", "x"], ["up", "--mode", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "baton" in capsys.readouterr().err


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("baton ")


# Errors


def test_wrong_settings_are_told_in_lines_of_their_own_and_exit_with_2(
    capsys: pytest.CaptureFixture[str], received: list[Settings]
) -> None:
    assert main(["worker", "--port", "0", "--dtype", "int3"]) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "baton: wrong setting"
    assert [line.partition(":")[0] for line in lines] == ["  DTYPE=int3", "  PORT=0"]
    assert all("Example: " in line for line in lines)
    assert received == []


@pytest.mark.parametrize("command", ["api", "worker"])
def test_api_and_worker_need_a_redis_url(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    shown = capsys.readouterr().err
    assert f"REDIS_URL: `baton {command}` needs" in shown
    assert "Example: REDIS_URL=redis://" in shown


def test_a_misspelt_name_in_the_env_file_is_warned_about_but_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], received: list[Settings]
) -> None:
    (tmp_path / ".env").write_text(f"REDIS_URL={REDIS}\nMODEL_NAM=x\n")
    assert main(["worker"]) == 0
    assert capsys.readouterr().err == (
        "baton: .env: MODEL_NAM is no setting and is ignored; was MODEL_NAME meant?\n"
    )
    assert len(received) == 1


def test_a_child_of_up_does_not_repeat_the_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], received: list[Settings]
) -> None:
    (tmp_path / ".env").write_text(f"REDIS_URL={REDIS}\nMODEL_NAM=x\n")
    assert main(["worker", "--child"]) == 0
    assert capsys.readouterr().err == ""
    assert len(received) == 1


# up


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_in_use_is_named_before_anything_is_started(
    taken_port: int, host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--host", host, "--port", str(taken_port), "--api-keys", "k"]) == 2
    shown = capsys.readouterr().err
    assert f"PORT={taken_port}: it is in use on {host} already. Example: PORT=" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_not_this_machine_s_is_named() -> None:
    with pytest.raises(SettingsError, match=r"HOST=192\.0\.2\.1: .* Example: HOST=127\.0\.0\.1"):
        check_can_listen("192.0.2.1", 8000)


def test_a_log_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["up", "--port", str(free_port()), "--log-dir", "file/logs"]) == 2
    assert (
        "LOG_DIR=file/logs: cannot be written: Not a directory. Example: LOG_DIR="
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_call(host: str, url: str) -> None:
    assert Gateway(load_settings(host=host, api_keys="k")).url == url


def test_the_curl_line_survives_a_shell_whatever_the_key() -> None:
    words = shlex.split(curl_line("http://127.0.0.1:8000", 'it\'s "mine" $HOME'))
    assert words[:2] == ["curl", "http://127.0.0.1:8000/generate"]
    assert 'X-API-Key: it\'s "mine" $HOME' in words
    assert json.loads(words[-1])["prompt"] == "Once upon a time"


def test_with_a_redis_url_only_worker_and_gateway_are_started() -> None:
    settings = load_settings(redis_url=REDIS, port="8765")
    children = process_tree(settings, Gateway(settings))
    assert [child.name for child in children] == ["worker", "gateway"]
    for child in children:
        assert child.env is not None
        assert (child.env["REDIS_URL"], child.env["PORT"]) == (REDIS, "8765")


def test_a_child_outlasts_what_it_gives_to_its_own_children_and_requests() -> None:
    settings = load_settings(redis_url=REDIS, shutdown_s="40", drain_s="60")
    started, gateway = process_tree(settings, Gateway(settings))
    (device,) = choose_devices("cpu", {}, lambda: None)
    assert started.grace_s > worker_child("worker-0", device, settings, "launch").grace_s > 60
    assert gateway.grace_s > 40


class FakeGateway(Gateway):
    """Answers in turn: ready, loading or the reason why not."""

    def __init__(self, *answers: str) -> None:
        super().__init__(load_settings())
        self._answers = iter(answers)
        self._now = ""

    def is_ready(self) -> bool:
        self._now = next(self._answers)
        return self._now == "ready"

    def problem(self) -> str | None:
        return None if self._now == "loading" else self._now


def test_the_greeting_has_url_key_and_curl_line_and_comes_once() -> None:
    told: list[str] = []
    progress = Progress(load_settings(), FakeGateway("loading", "loading"), told.append)
    assert progress() is not None
    shown = "\n".join(told)
    assert all(part in shown for part in ("http://127.0.0.1:8000", "test-key-123", "curl "))
    assert "baton-toy is loading" in shown
    told.clear()
    assert progress() is not None
    assert told == []


def test_a_loaded_model_is_told_and_nothing_more_is_asked() -> None:
    told: list[str] = []
    assert Progress(load_settings(), FakeGateway("ready"), told.append)() is None
    assert told[-1] == "The model baton-toy is loaded."


def test_why_a_model_cannot_be_loaded_is_told_once_a_reason() -> None:
    told: list[str] = []
    gateway = FakeGateway("no such file", "no such file", "out of memory", "loading", "ready")
    progress = Progress(load_settings(), gateway, told.append)
    while progress() is not None:
        pass
    assert [line for line in told if line in ("no such file", "out of memory")] == [
        "no such file",
        "out of memory",
    ]
    assert told[-1] == "The model baton-toy is loaded."


class Answering(BaseHTTPRequestHandler):
    """A gateway whose model cannot be loaded."""

    def do_GET(self) -> None:
        status = {"/health/live": 200, "/health": 200}[self.path]
        health = {"state": "error", "reason": "out of memory", "model_loaded": False}
        body = json.dumps(health).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def gateway_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_gateway_is_asked_over_http_past_any_proxy(
    gateway_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    gateway = Gateway(load_settings(port=str(gateway_port)))
    assert gateway.is_alive()
    assert not gateway.is_ready()
    assert gateway.problem() == "The model baton-toy cannot be loaded. out of memory"


def test_a_gateway_that_does_not_answer_is_not_alive_and_has_no_problem() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gateway = Gateway(load_settings(port=str(probe.getsockname()[1])))
        assert not gateway.is_alive()
        assert gateway.problem() is None


# worker


def pins(device: str, num_gpus: int | None, visible: str | None = None) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each worker, `cpu` for one without a GPU."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    chosen = choose_devices(device, environment, lambda: num_gpus)
    for each in chosen:
        assert (each["DEVICE"] == "cpu") == (each["CUDA_VISIBLE_DEVICES"] == "")
        assert each["DEVICE"] in ("cpu", "cuda:0")
    return [each["CUDA_VISIBLE_DEVICES"] or "cpu" for each in chosen]


@pytest.mark.parametrize(
    ("device", "num_gpus", "visible", "expected"),
    [
        ("auto", None, None, ["cpu"]),
        ("auto", 0, None, ["cpu"]),
        ("auto", 2, None, ["0", "1"]),
        ("auto", 2, "", ["cpu"]),
        ("auto", 2, "-1", ["cpu"]),
        ("auto", 4, "3,1,-1,0", ["3", "1"]),
        ("auto", 4, "GPU-8f1c, GPU-22ab", ["GPU-8f1c", "GPU-22ab"]),
        ("auto", None, "0", ["cpu"]),
        ("cpu", 2, None, ["cpu"]),
        ("cuda", 2, None, ["0", "1"]),
        ("cuda", 4, "2", ["2"]),
        ("cuda", None, "0,1", ["0", "1"]),
        ("cuda:0,2", 4, None, ["0", "2"]),
        ("cuda:1", 8, "5,7", ["7"]),
        ("cuda:0,3", None, None, ["0", "3"]),
    ],
)
def test_there_is_one_worker_per_device(
    device: str, num_gpus: int | None, visible: str | None, expected: list[str]
) -> None:
    assert pins(device, num_gpus, visible) == expected


@pytest.mark.parametrize(
    ("device", "num_gpus", "visible"),
    [
        ("cuda", 0, None),
        ("cuda", None, None),
        ("cuda", 2, ""),
        ("cuda:2", 2, None),
        ("cuda:0,1", 4, "3"),
    ],
)
def test_a_gpu_that_is_not_there_is_a_wrong_setting(
    device: str, num_gpus: int | None, visible: str | None
) -> None:
    with pytest.raises(SettingsError, match=rf"^DEVICE={device}: .* Example: DEVICE="):
        pins(device, num_gpus, visible)


def test_gpus_are_counted_as_nvidia_smi_counts_them_unless_the_user_named_them() -> None:
    (counted,) = choose_devices("auto", {}, lambda: 1)
    (named,) = choose_devices("auto", {"CUDA_VISIBLE_DEVICES": "0"}, lambda: 1)
    assert counted["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_DEVICE_ORDER" not in named


def test_a_worker_is_told_its_device_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "cuda:0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    settings = load_settings(max_batch_size="3", redis_url=REDIS)
    (_, second) = choose_devices(settings.device, {"CUDA_VISIBLE_DEVICES": "4,5"}, lambda: 8)
    environment = worker_child("worker-1", second, settings, "launch").env
    assert environment is not None
    assert environment["DEVICE"] == "cuda:0"
    assert environment["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment["MAX_BATCH_SIZE"] == "3"
    assert environment[LAUNCH_ID] == "launch"
    assert environment["REDIS_URL"] == REDIS
