from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import (
    LaunchError,
    ManifestError,
    NotFoundError,
    OrchError,
    ServiceUnavailableError,
    UsageError,
)
from orchestrator.ids import Instance
from orchestrator.service.client import Client, Terminal
from orchestrator.service.http_client import BodyDecoder
from orchestrator.spec import ProjectSpec, ServiceSpec
from orchestrator.views import LogLine, ProgressKind
from support.fake_service import Connection, FakeService, Request, container, plan, progress

PROJECT = ProjectSpec(name="shop", services={"web": ServiceSpec(name="web")})
LINE = LogLine(time=1.5, stream="stdout", service="web", name="shop-web-1", line="grüß dich")


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(str(tmp_path / "state"), str(tmp_path))


@pytest.fixture
def service(instance: Instance) -> Iterator[FakeService]:
    with FakeService(instance.socket).running() as running:
        yield running


@pytest.fixture
def client(instance: Instance, service: FakeService) -> Client:
    return Client(instance)


def test_containers_are_decoded_and_the_query_names_only_what_was_given(
    client: Client, service: FakeService
) -> None:
    service.answers("GET /v1/containers", [container()])
    assert client.containers("shop", services=["api", "web"], all=True) == [container()]
    assert service.requests[0].query == {"project": "shop", "services": "api,web", "all": "1"}
    client.containers()
    assert service.requests[1].query == {}


def test_names_in_paths_are_quoted(client: Client, service: FakeService) -> None:
    with pytest.raises(OrchError, match="no GET /v1/containers/a%2Fb%3F%20c"):
        client.inspect("a/b? c")


def test_up_sends_the_spec_and_streams_progress(client: Client, service: FakeService) -> None:
    sent = [progress(ProgressKind.PLAN, plan=plan()), progress(ProgressKind.RESULT, ok=True)]
    service.streams("POST /v1/up", *sent)
    with client.up(PROJECT, services=["web"], wait=True, wait_timeout=3) as stream:
        assert list(stream) == sent
    assert service.requests[0].body == {
        "project": {"name": "shop", "services": {"web": {"name": "web"}}},
        "services": ["web"],
        "force_recreate": False,
        "remove_orphans": True,
        "wait": True,
        "wait_timeout": 3,
    }


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError('no project "x"', "it is not up", "orch ls"),
        LaunchError('cannot start "web"', "no such program", status=127),
        ManifestError(["a.toml:1: x: unknown key"]),
    ],
)
def test_the_services_error_is_raised_as_the_same_class(
    client: Client, service: FakeService, error: OrchError
) -> None:
    service.refuses("POST /v1/projects/shop/kill", error, 404)
    with pytest.raises(type(error)) as raised:
        client.kill("shop")
    assert raised.value.to_wire() == error.to_wire()


def test_an_error_of_a_stream_that_cannot_begin_is_raised(client: Client, service: FakeService) -> None:
    service.refuses("GET /v1/logs", NotFoundError("no such project"), 404)
    with pytest.raises(NotFoundError, match="no such project"):
        client.logs("shop")


def test_an_error_in_the_midst_of_a_stream_is_raised(client: Client, service: FakeService) -> None:
    service.streams("GET /v1/logs", LINE, {"error": OrchError("log is unreadable").to_wire()})
    with client.logs("shop") as stream:
        lines = iter(stream)
        assert next(lines) == LINE
        with pytest.raises(OrchError, match="log is unreadable"):
            next(lines)


def test_an_answer_that_is_no_json_is_still_an_error(client: Client, service: FakeService) -> None:
    body = b"Internal Server Error"
    service.on(
        "GET /v1/projects",
        lambda request, connection: connection.socket.sendall(b"HTTP/1.1 500 X\r\n\r\n" + body),
    )
    with pytest.raises(OrchError, match="HTTP status 500: Internal Server Error"):
        client.projects()


def test_without_a_service_the_error_names_the_run_dir(instance: Instance) -> None:
    with pytest.raises(ServiceUnavailableError) as raised:
        Client(instance).projects()
    assert instance.run_dir in str(raised.value)
    assert not Client(instance).is_listening()


def test_a_socket_that_nobody_listens_on_any_more_is_no_service(instance: Instance) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(instance.socket)
    with pytest.raises(ServiceUnavailableError):
        Client(instance).projects()


def test_a_run_dir_too_long_for_a_socket_is_explained() -> None:
    with pytest.raises(UsageError, match="longer than 107 bytes"):
        Client(Instance("/s", "/" + "x" * 120)).projects()


def test_a_stream_that_is_cut_off_is_an_error_and_not_an_end(client: Client, service: FakeService) -> None:
    def cut(request: Request, connection: Connection) -> None:
        connection.begin_stream()
        connection.send(LINE)

    service.on("GET /v1/logs", cut)
    with client.logs("shop") as stream:
        lines = iter(stream)
        assert next(lines) == LINE
        with pytest.raises(ServiceUnavailableError, match="lost the connection"):
            next(lines)


def test_heartbeats_are_not_items(client: Client, service: FakeService) -> None:
    service.streams("GET /v1/logs", {}, LINE, {})
    with client.logs("shop") as stream:
        assert list(stream) == [LINE]


def test_lines_may_be_spread_over_chunks_in_any_way(client: Client, service: FakeService) -> None:
    def dribble(request: Request, connection: Connection) -> None:
        connection.begin_stream()
        text = (
            b'{"time":1.5,"stream":"stdout","service":"web","name":"shop-web-1","line":"gr\xc3\xbc\xc3\x9f dich"}\n'
            * 3
        )
        for start in range(0, len(text), 7):
            connection.chunk(text[start : start + 7])
        connection.end_stream()

    service.on("GET /v1/logs", dribble)
    with client.logs("shop") as stream:
        assert list(stream) == [LINE] * 3


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 9))
def test_chunked_bodies_are_decoded_however_they_arrive(chunks: list[bytes], step: int) -> None:
    wire = (
        b"".join(f"{len(chunk):X};x=y\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
        + b"0\r\nT: v\r\n\r\n"
    )
    decoder = BodyDecoder({"transfer-encoding": "Chunked"})
    out = b"".join(decoder.feed(wire[start : start + step]) for start in range(0, len(wire), step))
    assert out == b"".join(chunks)
    assert decoder.complete


def test_exec_hands_over_the_programs_descriptors(client: Client, service: FakeService) -> None:
    reading, writing = os.pipe()

    def execute(request: Request, connection: Connection) -> None:
        connection.upgrade()
        connection.message({"started": {"id": "web100000000", "pid": 7}}, (reading,))
        connection.message({"exited": {"code": 137, "signal": 9, "reason": "killed"}})

    service.on("POST /v1/exec", execute)
    channel = client.exec(
        "shop", "web", ["sh"], Terminal(tty=True, rows=50, columns=132), environment={"A": "b"}
    )
    messages = channel.pending()
    while not channel.ended:
        messages += channel.receive()
    (received,) = channel.take_descriptors()
    os.write(writing, b"hello")
    assert os.read(received, 10) == b"hello"
    assert not os.get_inheritable(received)
    assert messages[0].started is not None
    assert messages[0].started.pid == 7
    assert messages[1].exited is not None
    assert (messages[1].exited.code, messages[1].exited.signal) == (137, 9)
    assert service.requests[0].headers["upgrade"] == "orch-stdio"
    assert service.requests[0].body == {
        "project": "shop", "container": "web", "command": ["sh"], "tty": True, "stdin": True,
        "environment": {"A": "b"}, "user": None, "working_dir": None, "rows": 50, "columns": 132,
    }  # fmt: skip
    channel.close()
    for descriptor in (reading, writing, received):
        os.close(descriptor)


def test_descriptors_that_nobody_took_are_closed(client: Client, service: FakeService) -> None:
    reading, writing = os.pipe()

    def execute(request: Request, connection: Connection) -> None:
        connection.upgrade()
        connection.message({"started": {"id": "x", "pid": 7}}, (writing,))
        os.close(writing)

    service.on("POST /v1/exec", execute)
    channel = client.exec("shop", "web", ["sh"], Terminal())
    while not channel.ended:
        channel.receive()
    channel.close()
    assert os.read(reading, 1) == b""  # the end: no copy of the writing end is left
    os.close(reading)


def test_an_exec_that_is_refused_raises(client: Client, service: FakeService) -> None:
    service.refuses("POST /v1/exec", NotFoundError('no container "web"'), 404)
    with pytest.raises(NotFoundError, match="no container"):
        client.exec("shop", "web", ["sh"], Terminal())
