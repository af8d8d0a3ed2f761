// Every text of access requests.
import { duration } from "../../texts.js";

export const REQUESTS = {
  title: "Access requests",
  lead: "Access for a limited time, which another person approves.",
  create: "Request access",
  toDecide: "Waiting for your decision",
  own: "Yours",
  others: "Of other people",
  ended: "Ended",
  noneOwn: { title: "You have no open requests.", lead: "A request that ends is listed below." },
  noneEnded: "None.",
  truncated: (count) => `${count} older ones are not shown. All: gateway requests list`,
  show: "Show",
};

export const STATE_WORDS = {
  pending: "Waiting",
  active: "Active",
  ended: "Ended",
  denied: "Denied",
  withdrawn: "Withdrawn",
  expired: "Expired",
  revoked: "Ended early",
};

export const ROW = {
  by: (subject) => `by ${subject}`,
  servers: (count) => (count === 1 ? "1 server" : `${count} servers`),
  left: (seconds) => `${duration(seconds)} left`,
  expiresIn: (seconds) => `expires in ${duration(seconds)}`,
  approvals: (given, required) => `${given} of ${required} approvals`,
  notInForce: "Not in force: no rule of the policy allows it any more",
  glass: "Break-glass",
};

export const REQUEST = {
  back: "All requests",
  title: (role) => `Request for ${role}`,
  loading: "The request",
  facts: {
    state: "State",
    requester: "Requested by",
    role: "Role",
    rule: "Rule",
    project: "Project",
    servers: "Servers",
    duration: "Duration",
    reason: "Reason",
    ticket: "Ticket",
    created: "Requested at",
    pendingUntil: "Expires without a decision at",
    started: "Began at",
    ends: "Ends at",
    ended: "Ended at",
    approvals: "Approvals",
    approvers: "Who may decide",
    closedBy: "By",
    closedReason: "Because",
    id: "ID",
    hash: "Hash",
  },
  durationFromApproval: (seconds) => `${duration(seconds)}, from the approval on`,
  approvedBy: (who, at) => `${who}, ${at}`,
  noApprovals: (required) =>
    required === 1 ? "None yet; 1 is required" : `None yet; ${required} are required`,
  groups: (names) => `Groups: ${names}`,
  users: (names) => `People: ${names}`,
  ofIssuer: (issuer) => `Issuer: ${issuer}`,
  ownRequest: "This is your own request. Another person decides on it.",
  hidden: {
    title: "You cannot see this request.",
    lead: "It does not exist, it is too old, or you neither made it nor decide on it.",
  },
  steps: {
    approve: "Approve",
    deny: "Deny",
    withdraw: "Withdraw",
    end: "End access",
    extend: "Request more time",
  },
};

/** What each step asks before it is taken. */
export const STEPS = {
  approve: {
    title: "Approve this access?",
    text: (one, subject) =>
      (one.approvals_required ?? 1) > one.approvals.length + 1
        ? `After this, one more approval is needed before ${subject} gets the access.`
        : `${subject} gets the role ${one.role} for ${duration(one.duration_s)}, beginning now.`,
    more: "This is all that you approve. If anything of it has changed, the gateway refuses.",
    yes: "Approve",
    done: "Approved.",
  },
  deny: {
    title: "Deny this request?",
    text: (_, subject) => `${subject} sees your reason.`,
    yes: "Deny",
    done: "Denied.",
  },
  withdraw: {
    title: "Withdraw your request?",
    text: () => "It cannot be approved after that.",
    yes: "Withdraw",
    done: "Withdrawn.",
  },
  end: {
    title: "End this access now?",
    text: () => "Open consoles that need it end at once. This cannot be undone.",
    yes: "End access",
    done: "Ended.",
  },
  reason: "Reason (may be empty)",
  no: "Cancel",
  sending: "Sending",
  longReason: (max) => `The reason has at most ${max} characters.`,
};

export const FORM = {
  title: "Request access",
  lead: "The time begins when the last approver approves.",
  extends:
    "The earlier request stays as it is. Check what is filled in, and say why you need more time.",
  loading: "What you may request",
  noRules: {
    title: "You may not request access.",
    lead: "No rule of the policy lets you request anything now.",
  },
  rule: "What",
  ruleText: ({ role, rule, duration_max_s: longest }) =>
    rule === role
      ? `${role} (up to ${duration(longest)})`
      : `${role}, by ${rule} (up to ${duration(longest)})`,
  permissions: "Allows",
  approvals: "Approvals",
  approvalsText: (count) => (count === 1 ? "1 other person" : `${count} other people`),
  project: "Project",
  projectHint: "32 hexadecimal digits, from the server's page or a colleague.",
  servers: "Servers",
  serversHint:
    "IDs, or names of servers that you see, one a line. Another server may be named by its ID; the answer is the same whether it exists.",
  listed: "This rule names its servers:",
  selects: "The rule also looks at attributes such as tags; they decide when the access is used.",
  duration: "For how long",
  reason: "Reason",
  reasonHint: "The people who approve read it. It is in the audit log.",
  reasonCount: (count, max) => `${count} of ${max} characters`,
  ticket: "Ticket number",
  ticketHint: "Required by this rule.",
  ticketOptional: "If there is one.",
  send: "Send request",
  sending: "Sending",
  cancel: "Cancel",
  problems: {
    title: "This is not complete:",
    project: "Project: enter the project's ID.",
    noServer: "Servers: name at least one.",
    serverForm: (id) =>
      `Servers: ${id.slice(0, 60)} is no server ID, such as 1b2c3d4e-2222-4333-8444-555555555555.`,
    tooManyServers: (max) => `Servers: at most ${max} in one request.`,
    noReason: "Reason: say why you need the access.",
    shortReason: (least) => `Reason: at least ${least} characters for break-glass.`,
    longReason: (count, max) => `Reason: ${count} characters; at most ${max} are allowed.`,
    noTicket: "Ticket number: this rule requires one.",
    ticketForm: "Ticket number: letters, digits and . _ / # : - only, at most 64.",
  },
};

export const GLASS = {
  summary: "Emergency: no time for an approval?",
  text: (perDay) =>
    `Break-glass gives the access at once. Security is notified, and your consoles are recorded where that is possible. You may do this ${perDay === 1 ? "once" : `${perDay} times`} in 24 hours, one access at a time.`,
  start: "Break the glass…",
  title: "Break the glass?",
  lead: "You get this access now, without an approval:",
  consequences: "An alert goes out with your name and this reason.",
  understood: "This is an emergency, and I take responsibility.",
  notUnderstood: "Confirm that this is an emergency.",
  yes: "Break the glass",
  no: "Cancel",
};

/** Follows the count in the navigation, for screen readers. */
export const WAITING = " waiting for your decision";
