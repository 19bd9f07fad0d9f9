"""`/v1/files`: uploads, lists, contents, deletion, expiry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.file_schemas import DeletedFileAnswer, FileAnswer, FilesAnswer
from api.files import path_of
from api.gateway import Gateway
from common.settings import Settings
from tests.integration.api.conftest import Start
from tests.integration.api.support import AS_BOB

LINES = b'{"custom_id": "1"}\n{"custom_id": "2"}\n'


@pytest.fixture
def settings(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(data_dir=tmp_path / "data")


async def upload(http: httpx.AsyncClient, content: bytes = LINES, **fields: Any) -> httpx.Response:
    name = fields.pop("name", "in.jsonl")
    return await http.post(
        "/v1/files", files={"file": (name, content)}, data={"purpose": "batch"} | fields
    )


async def test_a_file_comes_back_byte_for_byte(http: httpx.AsyncClient) -> None:
    before = int(time.time())
    body = (await upload(http)).json()

    FileAnswer.model_validate(body)
    assert body["filename"] == "in.jsonl"
    assert body["bytes"] == len(LINES)
    assert before <= body["created_at"] <= time.time()
    assert body["expires_at"] is None
    assert (await http.get(f"/v1/files/{body['id']}")).json() == body
    content = await http.get(f"/v1/files/{body['id']}/content")
    assert content.content == LINES
    assert content.headers["content-length"] == str(len(LINES))


async def test_a_large_file_is_taken_whole(http: httpx.AsyncClient) -> None:
    content = b"0123456789abcdef" * 300_000  # more than other bodies may have, in several pieces

    file_id = (await upload(http, content)).json()["id"]

    assert (await http.get(f"/v1/files/{file_id}/content")).content == content


async def test_another_keys_file_is_not_found(http: httpx.AsyncClient) -> None:
    file_id = (await upload(http)).json()["id"]

    for call in (
        http.get(f"/v1/files/{file_id}", headers=AS_BOB),
        http.get(f"/v1/files/{file_id}/content", headers=AS_BOB),
        http.delete(f"/v1/files/{file_id}", headers=AS_BOB),
    ):
        assert (await call).status_code == 404
    assert (await http.get("/v1/files", headers=AS_BOB)).json()["data"] == []
    assert (await http.get(f"/v1/files/{file_id}")).status_code == 200


async def test_a_deleted_file_is_gone_with_its_content(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    file_id = (await upload(http)).json()["id"]
    assert (tmp_path / "data" / "files" / path_of(file_id)).read_bytes() == LINES

    answer = await http.delete(f"/v1/files/{file_id}")

    DeletedFileAnswer.model_validate(answer.json())
    assert (await http.get(f"/v1/files/{file_id}")).status_code == 404
    assert (await http.get("/v1/files")).json()["data"] == []
    assert not (tmp_path / "data" / "files" / path_of(file_id)).exists()


async def test_files_are_listed_page_by_page_newest_first(http: httpx.AsyncClient) -> None:
    ids = []
    for number in range(5):
        ids.append((await upload(http, name=f"{number}.jsonl")).json()["id"])
        await asyncio.sleep(0.002)  # the next millisecond: that is what they are ordered by

    first = (await http.get("/v1/files", params={"limit": 2})).json()
    FilesAnswer.model_validate(first)
    rest = (await http.get("/v1/files", params={"after": first["last_id"]})).json()

    assert [file["id"] for file in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    oldest = (await http.get("/v1/files", params={"order": "asc", "limit": 1})).json()
    assert oldest["first_id"] == ids[0]
    none = (await http.get("/v1/files", params={"purpose": "batch_output"})).json()
    assert none == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_a_file_whose_time_has_passed_is_deleted(
    start_app: Start, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.files.SWEEP_S", 0.01)
    http = await start_app(settings)
    options = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    body = (await upload(http, **options)).json()
    assert body["expires_at"] == body["created_at"] + 3600
    kept = (await upload(http)).json()["id"]

    now = time.time()
    monkeypatch.setattr("api.files.time.time", lambda: now + 3601)

    async with asyncio.timeout(20):
        while (await http.get(f"/v1/files/{body['id']}")).status_code != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await http.get(f"/v1/files/{kept}")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"content": b""}, "file"),
        ({"colour": "red"}, "colour"),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
            "expires_after[seconds]",
        ),
    ],
)
async def test_a_wrong_form_is_refused_by_the_name_of_its_field(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await upload(http, **fields)

    assert response.status_code == 400
    assert param in response.text


async def test_a_body_that_is_no_form_is_refused(http: httpx.AsyncClient) -> None:
    as_json = await http.post("/v1/files", json={"purpose": "batch"})
    broken = await http.post(
        "/v1/files", content=b"--x\r\nnothing", headers={"Content-Type": "multipart/form-data"}
    )

    assert as_json.status_code == broken.status_code == 400
    assert "multipart/form-data" in as_json.text
    assert "multipart/form-data" in broken.text


async def test_a_stranger_is_refused_before_the_body_is_read(http: httpx.AsyncClient) -> None:
    async def never() -> Any:
        yield b"--x\r\n"
        raise AssertionError("the body was read")

    response = await http.post(
        "/v1/files",
        content=never(),
        headers={"X-API-Key": "nobody", "Content-Type": "multipart/form-data; boundary=x"},
    )

    assert response.status_code == 401


async def test_a_file_over_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/files", headers={"Content-Length": "200100000"}, content=b"")

    assert response.status_code == 413
    assert "200065536 bytes" in response.text


@pytest.mark.parametrize("file_id", ["file-1", "nothing", "file-" + "0" * 24, "..%2F..%2Fdata"])
async def test_an_unknown_file_is_not_found(http: httpx.AsyncClient, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (await http.get(path)).status_code == 404


async def test_a_store_that_cannot_write_is_503_and_no_file_is_known(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "files"
    folder.rmdir()
    folder.write_text("in the way")

    response = await upload(http)

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert (await http.get("/v1/files")).json()["data"] == []


def gateway_of(http: httpx.AsyncClient) -> Gateway:
    app: FastAPI = http._transport.app  # type: ignore[attr-defined]
    gateway: Gateway = app.state.gateway
    return gateway


async def test_an_id_given_twice_makes_one_file(http: httpx.AsyncClient) -> None:
    files = gateway_of(http).files
    for _ in range(2):
        record = await files.create(
            b"x", key_id="k", filename="f", purpose="batch_output", file_id="file-" + "a" * 24
        )

    assert await files.records.page("k", limit=10) == ([record], False)
