"""/openapi.json and /docs, rendered once at start. /docs loads no other resource."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.model import Operation
from gateway.edge.docs.openapi import openapi
from gateway.edge.error_table import ERROR_SPECS


class DocsPage:
    def __init__(self, name: str, content_type: str, body: bytes, policy: str) -> None:
        """`name` is the operation in metrics and logs; `policy` is the Content-Security-Policy."""
        self.name = name
        self._body = body
        self._etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        self._headers = {
            "Content-Type": content_type,
            "Cache-Control": "public, max-age=300",
            "Content-Security-Policy": policy,
            "ETag": self._etag,
        }

    def response(self, request: web.BaseRequest, headers: CIMultiDict[str]) -> web.Response:
        headers.update(self._headers)
        if self._etag in request.headers.get("If-None-Match", ""):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        return web.Response(body=self._body, headers=headers)


def docs_pages(operations: Sequence[Operation]) -> dict[str, DocsPage]:
    """Return each page by its path."""
    document = openapi(operations)
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return {
        "/openapi.json": DocsPage(
            "openapi", "application/json", orjson.dumps(document), "default-src 'none'"
        ),
        "/docs": DocsPage("docs", "text/html; charset=utf-8", _html(document).encode(), policy),
    }


def _html(document: dict[str, Any]) -> str:
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method, one in item.items():
            if method not in ("parameters", "head"):
                parts = by_tag.setdefault(one["tags"][0], [])
                parts.append(_operation(path, method.upper(), one, shared, has_head="head" in item))
    sections = "".join(
        f'<section aria-labelledby="{tag}"><h2 id="{tag}">{tag}</h2>{"".join(parts)}</section>'
        for tag, parts in sorted(by_tag.items())
    )
    errors = "".join(
        f"<tr><td>{spec.status}</td><td><code>{spec.code}</code></td>"
        f"<td>{escape(spec.message)}</td><td>{'yes' if spec.retry else 'no'}</td></tr>"
        for spec in ERROR_SPECS
    )
    info = document["info"]
    links = "".join(f'<li><a href="#{tag}">{tag}</a></li>' for tag in sorted(by_tag))
    return _PAGE.format(
        style=_STYLE,
        title=escape(info["title"]),
        version=escape(info["version"]),
        about=escape(info["description"]),
        links=links,
        sections=sections,
        errors=errors,
    )


def _operation(
    path: str, method: str, one: dict[str, Any], shared: list[dict[str, Any]], *, has_head: bool
) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{escape(parameter.get('description', _shape(parameter['schema'])))}</td></tr>"
        for parameter in [*shared, *one.get("parameters", [])]
    )
    table = f"<table><tr><th>Parameter</th><th>In</th><th>Description</th></tr>{rows}</table>"
    body = one.get("requestBody")
    if body is not None:
        schema = orjson.dumps(
            body["content"]["application/json"]["schema"], option=orjson.OPT_INDENT_2
        ).decode()
        table += f"<h4>Body</h4><pre>{escape(schema)}</pre>"
    good = [status for status in one["responses"] if status < "4"]
    also = " HEAD is supported." if has_head else ""
    return (
        f'<details id="{one["operationId"]}"><summary><span class="m">{method}</span> '
        f"<code>{escape(path)}</code> <b>{escape(one['operationId'])}</b></summary>"
        f"<p>{escape(one['description'])} Responses: {', '.join(good)}.{also}</p>"
        f"{table if rows or body else ''}</details>"
    )


def _shape(schema: dict[str, Any]) -> str:
    return f"matches {schema['pattern']}" if "pattern" in schema else str(schema.get("type", ""))


_STYLE: Final = """
:root{color-scheme:light dark;--line:#8886;--soft:#8881;--accent:#0a58ca}
@media (prefers-color-scheme:dark){:root{--accent:#7ab7ff}}
body{font:16px/1.55 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1.5rem}
code,pre,.m{font-family:ui-monospace,monospace;font-size:.9em}
pre{background:var(--soft);padding:.8rem;overflow:auto;border-radius:.4rem}
a{color:var(--accent)}nav ul{display:flex;flex-wrap:wrap;gap:1rem;padding:0;list-style:none}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer;overflow-wrap:anywhere}
.m{display:inline-block;min-width:4.5em;font-weight:700}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
"""
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style></head>
<body><header><h1>{title} <small>{version}</small></h1><p>{about}</p>
<nav aria-label="Sections"><ul><li><a href="#use">usage</a></li>{links}
<li><a href="#errors">errors</a></li><li><a href="openapi.json">openapi.json</a></li></ul>
</nav></header>
<main><section aria-labelledby="use"><h2 id="use">Usage</h2>
<p>Send your JWT as <code>Authorization: Bearer JWT</code>, or in <code>X-Auth-Token</code> like a
cloud client. The vendor's SDK works with environment variables only.</p>
<pre>curl -H "Authorization: Bearer $JWT" \\
  https://GATEWAY/v1/$PROJECT/physicalservers/$SERVER/remote-console-address</pre></section>
{sections}
<section aria-labelledby="errors"><h2 id="errors">Errors</h2>
<p>The body is <code>{{"error_code", "error_msg"}}</code>. If the cloud rejects a permitted request,
the response has the cloud's status, code and message.</p>
<table><tr><th>Status</th><th>Code</th><th>Message</th><th>Retry</th></tr>{errors}</table></section></main>
</body></html>
"""
