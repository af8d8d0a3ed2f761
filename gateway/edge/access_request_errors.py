"""The error codes of access requests, for the error table."""

from typing import Final

from gateway.domain import errors
from gateway.domain.errors import GatewayError
from gateway.edge.error_spec import AFTER, LATER, NO_ACTION, ErrorSpec

ACCESS_REQUEST_ERRORS: Final[dict[type[GatewayError], ErrorSpec]] = {
    errors.AccessRequestForbidden: ErrorSpec(
        403,
        "CGW.4039",
        "You may not take this step of the access request.",
        cause="The caller is not an approver of the rule, or is the person who made the request."
        " Or no rule of the policy's `requests` allows the caller to make this request.",
        caller_action="Read `error_msg`. `GET /requests/ID` shows who may decide.",
        operator_action="Compare the rule of the policy (`requests`) with the groups of the"
        " caller's token.",
    ),
    errors.AccessRequestNotFound: ErrorSpec(
        404,
        "CGW.4041",
        "There is no such access request, or you may not see it. `gateway requests list` lists"
        " those that you see.",
        cause="The ID is wrong, the request is older than `requests.keep_s`, or the caller is"
        " neither its requester nor one of its approvers.",
        caller_action="List your requests with `gateway requests list`.",
        operator_action=NO_ACTION,
    ),
    errors.AccessRequestConflict: ErrorSpec(
        409,
        "CGW.4093",
        "The access request is not in a state for this step.",
        cause="Another person decided first, the request has expired, it has changed, or the"
        " policy no longer allows it.",
        caller_action="Read the request again.",
        operator_action=NO_ACTION,
    ),
    errors.AccessRequestLimited: ErrorSpec(
        429,
        "CGW.4292",
        f"Limit of access requests reached. {LATER}",
        cause="The person has `requests.person_pending_max` pending requests or made a quarter of"
        " `requests.stored_max`, break-glass is used up, or `requests.stored_max` requests are"
        " stored.",
        retry=AFTER,
        caller_action="Withdraw a request, or wait.",
        operator_action="Raise the limit, or remind the approvers.",
    ),
    errors.AccessRequestsUnavailable: ErrorSpec(
        503,
        "CGW.5030",
        f"Access requests are unavailable at the moment. {LATER}",
        cause="Redis is unavailable, or this process has not loaded the overrides yet. Access that"
        " was approved before goes on.",
        retry=AFTER,
        caller_action="Wait and retry.",
        operator_action="Check Redis.",
    ),
}
