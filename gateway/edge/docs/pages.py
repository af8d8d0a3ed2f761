"""/openapi.json and /docs: made once, the same for everybody, and the page needs nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.model import Operation
from gateway.edge.docs.openapi import error_rows, openapi


class DocsPage:
    def __init__(self, name: str, content_type: str, body: bytes, policy: str) -> None:
        """`name` is what metrics and logs call it; `policy` is a Content-Security-Policy."""
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
    """Return the pages by their path."""
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
        f"<tr><td>{status}</td><td><code>{code}</code></td><td>{escape(text)}</td></tr>"
        for status, code, text in sorted(error_rows())
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
    table = f"<table><tr><th>Parameter</th><th>In</th><th>What</th></tr>{rows}</table>"
    body = one.get("requestBody")
    if body is not None:
        schema = orjson.dumps(
            body["content"]["application/json"]["schema"], option=orjson.OPT_INDENT_2
        ).decode()
        table += f"<h4>Body</h4><pre>{escape(schema)}</pre>"
    good = [status for status in one["responses"] if status < "4"]
    also = " HEAD, too." if has_head else ""
    return (
        f'<details id="{one["operationId"]}"><summary><span class="m">{method}</span> '
        f"<code>{escape(path)}</code> <b>{escape(one['operationId'])}</b></summary>"
        f"<p>{escape(one['description'])} Answers {', '.join(good)}.{also}</p>"
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
<nav aria-label="Sections"><ul><li><a href="#use">use</a></li>{links}
<li><a href="#errors">errors</a></li><li><a href="openapi.json">openapi.json</a></li></ul>
</nav></header>
<main><section aria-labelledby="use"><h2 id="use">Use it</h2>
<p>Send the company's JWT as <code>Authorization: Bearer</code>, or in <code>X-Auth-Token</code> as
an unchanged cloud client does. The vendor's SDK needs only environment variables.</p>
<pre>curl -H "Authorization: Bearer $JWT" \\
  https://GATEWAY/v1/$PROJECT/physicalservers/$SERVER/remote-console-address</pre></section>
{sections}
<section aria-labelledby="errors"><h2 id="errors">Errors</h2>
<p>Always <code>{{"error_code", "error_msg"}}</code>; what the cloud itself refuses of a
permitted call keeps its status, code and message.</p>
<table><tr><th>Status</th><th>Code</th><th>Meaning</th></tr>{errors}</table></section></main>
</body></html>
"""
