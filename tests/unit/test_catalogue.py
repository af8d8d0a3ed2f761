import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import (
    Catalogue,
    operation_problems,
    query_parameters,
    resolve_body,
)
from gateway.domain.errors import (
    BadRequest,
    MethodNotAllowed,
    OperationUnknown,
    RequestTooLarge,
    ServerIdsRequired,
    UnsupportedMediaType,
)
from gateway.domain.model import Operation, ResolvedCall, ResponseKind

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"
CATALOGUE = Catalogue(built_in_operations())


def console(project: str = PROJECT, server: str = SERVER) -> str:
    return f"/v1/{project}/physicalservers/{server}/remote-console-address"


def test_console_path_yields_project_and_server() -> None:
    call = CATALOGUE.resolve("GET", console())
    assert (call.operation.name, call.project, call.servers) == (
        "ShowRemoteConsole",
        PROJECT,
        (SERVER,),
    )


def test_id_is_decoded_once_and_lowercased() -> None:
    call = CATALOGUE.resolve("GET", console(server=SERVER.replace("1", "%31", 1)))
    assert call.servers == (SERVER,)
    upper = "AAAAAAAA-2222-4333-8444-555555555555"
    assert CATALOGUE.resolve("GET", console(server=upper)).servers == (upper.lower(),)


def test_target_is_built_from_parsed_ids() -> None:
    upper = "AAAAAAAA-2222-4333-8444-555555555555"
    call = CATALOGUE.resolve("GET", console(server=upper.replace("8", "%38")))
    assert call.target == console(server=upper.lower())


@pytest.mark.parametrize("query", ["id=other", "x=/v1/p", "marker=1", "Limit=1", "=", "&=", "a&"])
def test_unknown_query_parameter_is_rejected(query: str) -> None:
    with pytest.raises(BadRequest, match="none is allowed"):
        CATALOGUE.resolve("GET", f"{console()}?{query}")


@pytest.mark.parametrize("query", ["?", "?&", "?&&"])
def test_empty_query_is_dropped(query: str) -> None:
    assert CATALOGUE.resolve("GET", console() + query).target == console()


def test_empty_parts_of_a_query_are_dropped() -> None:
    call = resolve("GET", "/physicalservers?&manage_state=in-use&&limit=10&")
    assert call.target == at("/physicalservers?manage_state=in-use&limit=10")


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
def test_non_uuid_server_id_is_rejected(server: str) -> None:
    with pytest.raises(BadRequest) as rejected:
        CATALOGUE.resolve("GET", console(server=server))
    assert type(rejected.value) is BadRequest


@pytest.mark.parametrize("literal", ["{project_id}", "%7Bproject_id%7D"])
def test_literal_project_placeholder_has_own_message(literal: str) -> None:
    with pytest.raises(BadRequest, match=r"literal \{project_id\}"):
        CATALOGUE.resolve("GET", console(project=literal))


@pytest.mark.parametrize("project", ["", "a b", "a%20b", "..", "%2e%2e", "x" * 65, "a%2fb"])
def test_malformed_project_is_rejected(project: str) -> None:
    with pytest.raises(BadRequest):
        CATALOGUE.resolve("GET", console(project=project))


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
def test_unlisted_path_raises_operation_unknown(path: str) -> None:
    with pytest.raises(OperationUnknown):
        CATALOGUE.resolve("GET", path)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "get", "TRACE"])
def test_wrong_method_reports_allowed_methods(method: str) -> None:
    with pytest.raises(MethodNotAllowed) as rejected:
        CATALOGUE.resolve(method, console())
    assert rejected.value.allowed == ("GET",)


@given(st.text(max_size=200), st.sampled_from(["GET", "PUT"]))
def test_any_path_resolves_or_raises_bad_request(path: str, method: str) -> None:
    try:
        call = CATALOGUE.resolve(method, path)
    except BadRequest:
        return
    assert path.partition("?")[0].count("/") == 5
    assert call.servers


def at(path: str) -> str:
    return f"/v1/{PROJECT}{path}"


def resolve(method: str, path: str) -> ResolvedCall:
    return CATALOGUE.resolve(method, at(path))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/physicalservers/status", "ShowServerStatus"),
        ("/physicalservers/alarms", "ListAlarms"),
        ("/physicalservers/events", "ListEvents"),
        (f"/physicalservers/{SERVER}", "ShowServer"),
        ("/physicalservers/alarms/summary", "ShowAlarmSummary"),
        ("/physicalservers/events/e-1", "ShowEvent"),
        (f"/physicalservers/{SERVER}/hardware-attributes", "ShowServerHardwareAttributes"),
    ],
)
def test_literal_segment_wins_over_placeholder(path: str, name: str) -> None:
    assert resolve("GET", path).operation.name == name


def test_literal_segment_is_never_an_id() -> None:
    with pytest.raises(MethodNotAllowed) as rejected:
        resolve("GET", "/physicalservers/power-state")
    assert rejected.value.allowed == ("PUT",)


def test_head_is_allowed_for_buffered_reads_only() -> None:
    assert resolve("HEAD", f"/physicalservers/{SERVER}").operation.name == "ShowServer"
    for path in (f"{SERVER}/remote-console-address", f"{SERVER}/logs/exports/e/content"):
        with pytest.raises(MethodNotAllowed) as rejected:
            resolve("HEAD", f"/physicalservers/{path}")
        assert rejected.value.allowed == ("GET",)


def test_query_server_ids_are_resolved_and_normalized() -> None:
    upper = OTHER.replace("2222", "ABCD", 1)
    query = f"resource_id={SERVER},{upper}&from=1%2B1"
    call = resolve("GET", f"/physicalservers/alarms?{query}")
    assert call.servers == (SERVER, upper.lower())
    assert call.target.endswith(f"/alarms?resource_id={SERVER},{upper.lower()}&from=1%2B1")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (f"resource_id={SERVER}&resource_id={OTHER}", BadRequest),
        (f"resource_id={SERVER}&resource%5Fid={OTHER}", BadRequest),
        ("resource_id=", ServerIdsRequired),
        ("resource_id=,", ServerIdsRequired),
        (f"resource_id={SERVER},", BadRequest),
        ("resource_id=x", BadRequest),
        ("from=%FF", BadRequest),
        ("from=%0A", BadRequest),
        ("resource_id=" + ",".join([f"{i:08x}" + SERVER[8:] for i in range(101)]), BadRequest),
    ],
)
def test_ambiguous_query_is_rejected(query: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        resolve("GET", f"/physicalservers/alarms?{query}")


def test_operation_without_ids_touches_unnamed() -> None:
    assert resolve("GET", "/physicalservers/status").touches_unnamed
    assert not resolve("GET", "/physicalservers").touches_unnamed
    assert not resolve("GET", f"/physicalservers/{SERVER}").touches_unnamed


def power(body: str) -> ResolvedCall:
    return resolve_body(resolve("PUT", "/physicalservers/power-state"), body.encode())


def test_body_server_ids_are_resolved() -> None:
    body = f'{{"action": "power off", "server_id_set": ["{SERVER}", "{OTHER}", "{SERVER}"]}}'
    call = power(body)
    assert call.servers == (SERVER, OTHER)
    assert call.body == body.encode()
    assert not call.touches_unnamed


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"server_id_set": []}',
        '{"server_id_set": null}',
        '{"server_id_set": ""}',
        '{"server_id_set": [""]}',
        '{"server_id_set": {}}',
        '{"server_id_set": 7}',
        '{"SERVER_ID_SET": []}',
    ],
)
def test_empty_or_absent_ids_are_rejected(body: str) -> None:
    with pytest.raises(ServerIdsRequired):
        power(body)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "7",
        "{",
        f'{{"server_id_set": ["{SERVER}"], "server_id_set": ["{OTHER}"]}}',
        f'{{"server_id_set": ["{SERVER}"], "a": {{"x": 1, "x": 2}}}}',
        f'{{"server_id_set": ["{SERVER}"], "Server_Id_Set": ["{OTHER}"]}}',
        f'{{"server_id_set": ["{SERVER}"], "server_ids": ["{OTHER}"]}}',
        f'{{"server_id_set": ["{SERVER}"], "more": {{"server_id": "{OTHER}"}}}}',
        f'{{"server_id_set": ["{SERVER}"], "more": [{{"instance_id": "{OTHER}"}}]}}',
        f'{{"server_id_set": ["{SERVER}", 7]}}',
        f'{{"server_id_set": ["{SERVER.replace("5", "A")}"]}}',
        f'{{"server_id_set": ["{SERVER}"], "a": NaN}}',
        f'{{"server_id_set": ["{SERVER}"], "a": {"[" * 40}{"]" * 40}}}',
        f'{{"server_id_set": ["{SERVER}"], "a": {"[" * 20_000}{"]" * 20_000}}}',
        str(["x"] * 51).replace("'", '"'),
    ],
)
def test_ambiguous_body_is_rejected(body: str) -> None:
    with pytest.raises(BadRequest):
        power(body)


def test_non_utf8_body_is_rejected() -> None:
    text = f'{{"server_id_set": ["{SERVER}"]}}'
    call = resolve("PUT", "/physicalservers/power-state")
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        with pytest.raises(BadRequest):
            resolve_body(call, text.encode(encoding))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/physicalservers/{SERVER}/logs/exports"),
        ("PUT", "/instances/i-1/ip"),
        ("DELETE", "/instances/i-1"),
    ],
)
def test_body_ids_beside_path_id_are_rejected(method: str, path: str) -> None:
    call = resolve(method, path)
    assert resolve_body(call, b'{"x": 1}').body == b'{"x": 1}'
    assert resolve_body(call, b"").body == b""
    for body in ('{"server_id_set": ["x"]}', '{"a": [{"\u017ferver_id": "x"}]}', "[", "7"):
        with pytest.raises(BadRequest):
            resolve_body(call, body.encode())


def test_too_many_ids_are_rejected() -> None:
    ids = ", ".join(f'"{i:08x}{SERVER[8:]}"' for i in range(51))
    with pytest.raises(BadRequest, match="At most 50"):
        power(f'{{"server_id_set": [{ids}]}}')


def test_oversized_body_is_rejected() -> None:
    with pytest.raises(RequestTooLarge):
        power(" " * 65_537)


def test_instance_without_placement_touches_unnamed() -> None:
    create = resolve("POST", "/instances")
    with_placement = resolve_body(create, f'{{"placement": {{"server_id": "{SERVER}"}}}}'.encode())
    assert (with_placement.servers, with_placement.touches_unnamed) == ((SERVER,), False)
    for anywhere in (b"{}", b'{"placement": {}}', b'{"placement": null}'):
        call = resolve_body(create, anywhere)
        assert (call.servers, call.touches_unnamed) == ((), True)
    with pytest.raises(ServerIdsRequired):
        resolve_body(create, b'{"placement": {"server_id": null}}')
    with pytest.raises(ServerIdsRequired):
        resolve_body(create, f'{{"server_id": "{SERVER}"}}'.encode())


@pytest.mark.parametrize(
    ("counts", "beyond"),
    [
        ("", False),
        (', "min_count": 1, "max_count": 2', False),
        (', "min_count": null, "max_count": null', False),
        (', "max_count": 3', True),
        (', "min_count": 3', True),
    ],
)
def test_count_beyond_named_ids_touches_unnamed(counts: str, *, beyond: bool) -> None:
    run = resolve("POST", "/instances/batch-create")
    placement = f'{{"placement": {{"server_id_set": ["{SERVER}", "{OTHER}", "{OTHER}"]}}{counts}}}'
    call = resolve_body(run, placement.encode())
    assert (call.servers, call.touches_unnamed) == ((SERVER, OTHER), beyond)


@pytest.mark.parametrize(
    "counts",
    [
        '"Max_Count": 3',
        '"maxCount": 1',
        '"max-count": 1',
        '"max_count ": 1',
        '"ma\\u0445_count": 1, "max_count\\u200b": 1',
        '"x": {"max_count": 3}',
        '"max_count": 1, "x": [{"min_count": 3}]',
    ],
)
def test_count_by_another_name_or_place_is_rejected(counts: str) -> None:
    run = resolve("POST", "/instances/batch-create")
    body = f'{{"placement": {{"server_id_set": ["{SERVER}"]}}, {counts}}}'
    with pytest.raises(BadRequest):
        resolve_body(run, body.encode())


LOOKALIKES = [
    "serverIdSet", "server-id-set", "ServerIDSet", "server.id.set", " server_id_set",
    "serverIds", "SERVER_ID", "instanceIdSet", "resource id", "\u017ferver_id_set",
    "server_\u0131d_set", "server_\u0130d_set", "\uff53erver_id_set", "se\u0301rver_id_set",
    "server\u00ad_id", "server_id\u200b", "server_\u2139d_set",
]  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_name_that_a_lenient_parser_matches_is_rejected(name: str) -> None:
    beside = json.dumps({"server_id_set": [SERVER], "x": [{name: [OTHER]}]})
    with pytest.raises(BadRequest):
        power(beside)
    with pytest.raises(BadRequest):
        resolve_body(resolve("PUT", "/instances/i-1/ip"), json.dumps({name: 1}).encode())


@pytest.mark.parametrize("name", ["Placement", "place_ment"])
def test_lookalike_of_a_place_is_rejected(name: str) -> None:
    create = resolve("POST", "/instances")
    placement = {"placement": {"server_id": SERVER}, name: {}}
    with pytest.raises(BadRequest, match="exactly `placement`"):
        resolve_body(create, json.dumps(placement).encode())


@pytest.mark.parametrize("name", ["server_id_set\u0000", "x\u0007", "x\u007f", "x\u202e", "\ud800"])
@pytest.mark.parametrize("path", ["/physicalservers/power-state", "/instances/i-1/ip", "/idcs"])
def test_control_character_in_a_name_is_rejected(path: str, name: str) -> None:
    body = json.dumps({"server_id_set": [SERVER], "x": {name: 1}}).encode()
    with pytest.raises(BadRequest, match="control characters"):
        resolve_body(resolve("PUT", path), body)


def test_names_of_other_members_are_free() -> None:
    body = json.dumps({"server_id_set": [SERVER], "server": 1, "id_set": 2, "größe": {"a b": 3}})
    assert power(body).servers == (SERVER,)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json;charset=UTF-8",
        "application/json;charset=utf8",
        'application/json ; charset="utf-8"',
        "application/json;",
        None,
    ],
)
def test_json_in_utf8_is_accepted(content_type: str | None) -> None:
    declared = [] if content_type is None else [content_type]
    body = json.dumps({"server_id_set": [SERVER]}).encode()
    call = resolve("PUT", "/physicalservers/power-state")
    assert resolve_body(call, body, declared).servers == (SERVER,)


@pytest.mark.parametrize(
    "declared",
    [
        ["application/json; charset=utf-7"],
        ["application/json; charset=utf-16"],
        ["application/json; charset=utf-8; charset=utf-7"],
        ["application/json; charset=cp1047"],
        ["application/json, text/plain"],
        ["application/json", "application/json"],
        ["application/x-www-form-urlencoded"],
        ["application/vnd.api+json"],
        ["text/json"],
        [""],
    ],
)
@pytest.mark.parametrize("path", ["/physicalservers/power-state", "/instances/i-1/ip", "/idcs"])
def test_other_media_type_is_rejected(path: str, declared: list[str]) -> None:
    call = resolve("PUT", path)
    with pytest.raises(UnsupportedMediaType):
        resolve_body(call, b'{"server_id_set": []}', declared)
    if path == "/instances/i-1/ip":
        assert resolve_body(call, b"", declared).body == b""


@pytest.mark.parametrize("body", [b"x", b"7", b'[{"a": 1, "a": 2}]', b"\xff"])
def test_body_without_ids_must_be_json(body: bytes) -> None:
    with pytest.raises(BadRequest):
        resolve_body(resolve("PUT", "/idcs"), body)


def test_body_without_ids_may_be_an_array() -> None:
    assert resolve_body(resolve("PUT", "/idcs"), b'[{"id": 1}]').body == b'[{"id": 1}]'


@pytest.mark.parametrize("count", ['"1"', "1.0", "true", "[1]"])
def test_invalid_count_is_rejected(count: str) -> None:
    run = resolve("POST", "/instances/batch-create")
    body = f'{{"placement": {{"server_id_set": ["{SERVER}"]}}, "max_count": {count}}}'
    with pytest.raises(BadRequest, match="max_count"):
        resolve_body(run, body.encode())


def test_instance_ids_come_from_path_query_body() -> None:
    assert resolve("DELETE", "/instances/i-1").instances == ("i-1",)
    assert resolve("GET", "/instances?instance_id=a,b").instances == ("a", "b")
    reinstall = resolve("PUT", "/instances/reinstall")
    assert resolve_body(reinstall, b'{"instance_id_set": ["a"]}').instances == ("a",)


@pytest.mark.parametrize("instance", ["..", ".", "a%2fb", "a b", "%00", "é", "a" * 200])
def test_malformed_instance_id_is_rejected(instance: str) -> None:
    with pytest.raises(BadRequest):
        resolve("DELETE", f"/instances/{instance}")


def test_built_in_operations_are_valid_and_reachable() -> None:
    for row in built_in_operations():
        assert not list(operation_problems(row))
        path = row.path.replace("{server_id}", SERVER)
        while "{" in path:
            path = path[: path.index("{")] + "x-1" + path[path.index("}") + 1 :]
        assert resolve(row.method, path).operation is row
    assert len({row.name for row in built_in_operations()}) == len(built_in_operations())


def test_invalid_operation_yields_its_problem() -> None:
    def problem_of(**changed: object) -> str:
        row = {"name": "X", "method": "GET", "path": "/x/{server_id}", "permission": "server:read"}
        return " ".join(operation_problems(Operation(**(row | changed))))  # type: ignore[arg-type]

    assert not problem_of()
    assert "path" in problem_of(path="x")
    assert "path" in problem_of(path="/x/../y")
    assert "method" in problem_of(method="TRACE")
    assert "permission" in problem_of(permission="server:fly")
    assert "writes" in problem_of(method="POST")
    assert "whole" in problem_of(writes=True, response=ResponseKind.STREAMED)
    assert "listing" in problem_of(response=ResponseKind.LISTED)
    assert "server_id" in problem_of(response=ResponseKind.CONSOLE_LINK, path="/x")
    assert "body_bytes_max" in problem_of(servers_in_body="x")
    assert "servers_in_body" in problem_of(counts_in_body=("max_count",))


def test_query_parameters_include_ids_and_paging() -> None:
    (row,) = [row for row in built_in_operations() if row.name == "ListInstances"]
    assert query_parameters(row) == (
        "instance_state",
        "server_id",
        "instance_id",
        "limit",
        "marker",
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(SERVER),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["server_id_set", "server_id", "instance_id_set", "action", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_body_resolves_its_servers_or_raises(document: object) -> None:
    try:
        call = power(json.dumps(document))
    except (BadRequest, ServerIdsRequired):
        return
    assert isinstance(document, dict)
    assert call.servers
    named = document["server_id_set"]
    assert set(call.servers) == ({named} if isinstance(named, str) else set(named))
    assert json.dumps(document).count("server_id") == 1
    assert "instance_id" not in json.dumps(document)
