import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, MethodNotAllowed, OperationUnknown
from gateway.rules.catalogue import OPERATIONS, Catalogue

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
CATALOGUE = Catalogue(OPERATIONS)


def console(project: str = PROJECT, server: str = SERVER) -> str:
    return f"/v1/{project}/physicalservers/{server}/remote-console-address"


def test_the_console_path_names_the_project_and_the_server() -> None:
    call = CATALOGUE.resolve("GET", console(), has_body=False)
    assert (call.operation.name, call.project, call.servers) == (
        "ShowRemoteConsole",
        PROJECT,
        (SERVER,),
    )


def test_an_id_is_percent_decoded_once_and_made_lower_case() -> None:
    call = CATALOGUE.resolve("GET", console(server=SERVER.replace("1", "%31", 1)), has_body=False)
    assert call.servers == (SERVER,)
    upper = "AAAAAAAA-2222-4333-8444-555555555555"
    assert CATALOGUE.resolve("GET", console(server=upper), has_body=False).servers == (
        upper.lower(),
    )


def test_a_query_decides_nothing() -> None:
    call = CATALOGUE.resolve("GET", console() + "?id=other&x=/v1/p", has_body=False)
    assert call.servers == (SERVER,)


@pytest.mark.parametrize(
    "server",
    [
        "",
        "1",
        SERVER[:-1],
        SERVER + "0",
        SERVER.replace("-", ""),
        SERVER + "%00",
        SERVER + "%2f..",
        "..%2F..%2Finstances%2Fx%3Fy%3D1",
        "%2531" + SERVER[1:],
        SERVER + ";a=b",
        "%7Bid%7D",
        "é" + SERVER[1:],
        "%C3%A9",
        ".",
        "..",
        SERVER.replace("1", "g"),
        "a" * 4000,
    ],
)
def test_an_id_that_is_no_uuid_is_malformed(server: str) -> None:
    with pytest.raises(BadRequest) as refused:
        CATALOGUE.resolve("GET", console(server=server), has_body=False)
    assert type(refused.value) is BadRequest


@pytest.mark.parametrize("literal", ["{project_id}", "%7Bproject_id%7D"])
def test_the_literal_project_id_is_told_what_is_wrong(literal: str) -> None:
    with pytest.raises(BadRequest, match="literally"):
        CATALOGUE.resolve("GET", console(project=literal), has_body=False)


@pytest.mark.parametrize("project", ["", "a b", "a%20b", "..", "%2e%2e", "x" * 65, "a%2fb"])
def test_a_malformed_project_is_refused(project: str) -> None:
    with pytest.raises(BadRequest):
        CATALOGUE.resolve("GET", console(project=project), has_body=False)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/metrics",
        "/healthz",
        "/v1",
        "/v2" + console()[3:],
        "/V1" + console()[3:],
        console() + "/",
        console() + "/x",
        "/" + console(),
        console().replace("physicalservers", "instances"),
        console().replace("remote-console-address", "Remote-Console-Address"),
        f"/v1/{PROJECT}/physicalservers%2F{SERVER}/remote-console-address",
        f"/v1/{PROJECT}/x/../physicalservers/{SERVER}/remote-console-address",
        "http://elsewhere" + console(),
    ],
)
def test_what_is_not_in_the_catalogue_is_unknown(path: str) -> None:
    with pytest.raises(OperationUnknown):
        CATALOGUE.resolve("GET", path, has_body=False)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "get", "TRACE"])
def test_another_method_is_told_which_one_is_allowed(method: str) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        CATALOGUE.resolve(method, console(), has_body=False)
    assert refused.value.allowed == ("GET",)


def test_a_body_on_a_get_is_refused() -> None:
    with pytest.raises(BadRequest, match="no request body"):
        CATALOGUE.resolve("GET", console(), has_body=True)


@given(st.text(max_size=200), st.sampled_from(["GET", "PUT"]))
def test_any_path_is_resolved_or_refused_and_never_more(path: str, method: str) -> None:
    try:
        call = CATALOGUE.resolve(method, path, has_body=False)
    except BadRequest:
        return
    assert path.partition("?")[0].count("/") == 5
    assert call.servers
