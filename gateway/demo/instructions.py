"""The text that `gateway demo` prints: addresses, and commands to try."""

from typing import Final

INSTRUCTIONS: Final = """\
Console Gateway is running. Ctrl-C stops it and removes its files.

  gateway              {gateway}
  admin listener       {admin}    /metrics /healthz /readyz /admin/openapi.json
  Valkey               {redis}
  config and policy    {directory}    changes of policy.yaml need no restart

The simulated cloud:

  identity provider    {issuer}
  IAM                  {iam}
  physical servers     {upstream}    accepts 10 calls per second, then answers 429
  console host         {consoles}    TLS by an authority of this demo; reached by the gateway only

In another terminal, load the variables and tokens that the commands use:

  . {directory}/env

Request a console as olga, an operator: 200 and a link. Repeat it: the same link, cached.

  curl -si -H "Authorization: Bearer $OPERATOR" $ALLOWED

Send the token as an unchanged cloud client does, and request a fresh link:

  curl -si -H "X-Auth-Token: $OPERATOR" -H "Cache-Control: no-cache" $ALLOWED

Denied: victor is a viewer, otto has no role, olga has no grant for this server. 403 each time.

  curl -si -H "Authorization: Bearer $VIEWER" $ALLOWED
  curl -si -H "Authorization: Bearer $OUTSIDER" $ALLOWED
  curl -si -H "Authorization: Bearer $OPERATOR" $DENIED

Use the gateway's own client as olga: list the visible servers and their permissions, print a link.

  gateway servers
  gateway console --print $TARGET

Use the rest of the physical-servers API: a list filtered by permission, and a power action.

  curl -s -H "Authorization: Bearer $OPERATOR" "$SERVERS?limit=10"
  curl -si -X PUT -H "Authorization: Bearer $OPERATOR" -H "$JSON" -d "$OFF" $SERVERS/power-state

API documentation with every operation: {gateway}/docs

Explain a decision, check the config and every dependency, read a metric:

  gateway explain --config $CONFIG --user olga --group operators $TARGET
  gateway explain --config $CONFIG --user victor --group viewers $TARGET
  gateway check --config $CONFIG --online
  curl -s {admin}/metrics | grep ^gateway_links_total

Request access for an hour: victor may not open this console, and the 403 says that he may request
it. anna approves with the ID that is printed, and he opens it, until the time is over or he ends
it. In the browser: log in as victor at {gateway}/, and as anna in a private window.

  gateway console --token-env VIEWER --print {live}
  gateway requests create --token-env VIEWER {live} --role operator --for 1h --reason "new disk"
  gateway requests list --token-env APPROVER --to-approve
  gateway requests approve --token-env APPROVER ID
  gateway console --token-env VIEWER {live}
  gateway requests end --token-env VIEWER ID

Administer the gateway as ada: list active sessions; revoke otto's tokens (his next login is
valid again); lock victor (a new token does not help); list both. `gateway admin unlock ID`, with
the ID of the lock, lets victor in again: he is also in what follows.

  gateway admin sessions
  gateway admin revoke --issuer demo --subject otto --reason "lost laptop"
  gateway admin lock --issuer demo --subject victor --reason "left us"
  gateway admin overrides

Search the audit log and verify that it is unchanged:

  gateway audit search --subject olga $AUDIT
  gateway audit verify --public-key $AUDIT-key.pub $AUDIT

Tokens, valid for 12 hours:

{tokens}

Open the page of servers and log in, as olga: {gateway}/
It opens consoles and switches power. An address that olga requests then opens for olga only in
this browser. Log in as victor instead, and one of hers is refused.

The commands log in as well: choose olga in the browser, or in any other with the code of --device.

  unset CONSOLE_GATEWAY_TOKEN; gateway login; gateway whoami; gateway logout

The operators' pages, with a login of their own: {admin}/
Log in as ada, who may do everything there, or as rita, who may only look. End olga's console, lock
her, or ask why victor cannot open a server.

Open a live console as olga: the screen and the keyboard run through the gateway, and the cloud's
URL stays inside. Press Enter in the page, then log in with any name and any password. Each run
opens a fresh address; it is good once, for 60 seconds.

  . {directory}/env; gateway console {live}
"""
