// Every text of the page, except the ends: those come from the gateway's table
// (gateway/domain/consoles/ends.py), in the page's configuration.

export const STATES = {
  empty: "No console",
  checking: "Checking",
  ready: "Ready",
  login: "Login",
  opening: "Opening",
  waiting: "Waiting",
  connecting: "Connecting",
  live: "Live",
  lost: "Reconnecting",
  elsewhere: "In another tab",
  rejected: "Not opened",
  ended: "Ended",
};

export const CARDS = {
  empty: {
    title: "This page needs a fresh address.",
    lead: "The address of a console works once, and within a minute. Request a new one and open it.",
  },
  checking: { title: "Checking the address", lead: "This does not use it up." },
  login: {
    title: "Log in to open this console.",
    lead: "It opens for the person who requested it only. The address is used up; this browser has it for 10 minutes.",
  },
  ready: {
    title: (server) => `Open the console of ${server}?`,
    lead: "Nothing is connected yet.",
  },
  opening: { title: "Opening the console", lead: "The gateway checks your permission again." },
  waiting: {
    title: "Waiting for the cloud",
    lead: (seconds) =>
      seconds === null
        ? "The cloud limits how fast consoles open. Keep this tab open."
        : `The cloud limits how fast consoles open. Yours opens in about ${duration(seconds)}. Keep this tab open.`,
  },
  connecting: {
    title: "Connecting to the server",
    lead: "The cloud has opened the console. The picture follows.",
  },
  lost: {
    title: "The connection was lost.",
    lead: "The page reconnects by itself. The server keeps running, and nothing on it is lost.",
  },
  elsewhere: {
    title: "This console is open in another tab.",
    lead: "Use that tab, or continue here. The other tab then closes its console.",
  },
  expired: {
    title: "This address has expired.",
    lead: "It works within a minute only. Request a new address to open the console.",
  },
  takenOverByOwn: {
    title: "You have opened this console in another place.",
    advice: "Use it there, or request a new address and take it over.",
  },
  busyAddress: "This tab already has a console. Open the new address in another tab.",
  unknownEnd: {
    title: "The console has ended.",
    advice: "Request a new address to open the console again.",
  },
  tooLarge: "The server's screen is larger than 32 megapixels.",
  notUnderstood: "The page does not understand what the console sent.",
};

/** What differs on the admin listener. */
export const ADMIN_LOGIN = {
  choose: {
    title: "Log in to the operators' pages",
    lead: "This login is for these pages only. You log in at your identity provider and come back here.",
  },
  in: { title: "You are logged in.", lead: "This login is for the operators' pages only." },
  loggedOut: { title: "You are logged out.", lead: "You are logged out of the operators' pages." },
};

export const LOGIN_STATES = {
  checking: "Checking",
  choose: "Login",
  continuing: "Logged in",
  in: "Logged in",
  leaving: "Logging out",
  out: "Logged out",
  failed: "Not logged in",
};

/** The pages of logins; why a login failed comes from the gateway (domain/login/model.py). */
export const LOGIN = {
  checking: { title: "Checking your session", lead: "" },
  choose: {
    title: "Log in to Console Gateway",
    lead: "You log in at your identity provider and come back here.",
  },
  in: { title: "You are logged in.", lead: "Consoles that you open in this browser are yours only." },
  goingOn: { title: "You are logged in.", lead: "This page goes on by itself." },
  leaving: { title: "Logging out", lead: "" },
  loggedOut: {
    title: "You are logged out.",
    lead: "Consoles that you opened with this login have ended.",
  },
  notLoggedOut: {
    title: "You are still logged in.",
    lead: "The gateway did not answer. Try again before you leave this browser to others.",
  },
  unavailable: "Logins are unavailable at the moment.",
  noAnswer: "The gateway does not answer. Check your network, then try again.",
  with: (label) => `Log in with ${label}`,
  goOn: "Continue",
  logOut: "Log out",
  again: "Log in again",
  startAgain: "Start again",
  retry: "Try again",
};

/** Titles of requests that the gateway rejected, by status; its own message follows. */
const REJECTIONS = {
  0: "The gateway does not answer.",
  400: "This address is not valid.",
  401: "This address does not work.",
  403: "You may not open this console.",
  404: "This address does not work.",
  409: "This console cannot be opened now.",
  410: "This address does not work any more.",
  429: "Too many requests from your network.",
  503: "The gateway cannot open consoles now.",
};

export function rejectionTitle(status) {
  return REJECTIONS[status] ?? "The console was not opened.";
}

export const REJECTION_LEAD = "Request a new address to try again.";
export const SPENT_LEAD =
  "The gateway failed while it opened the console, and the address was used up. Request a new address.";
export const NO_ANSWER_LEAD = "Check your network, then request a new address.";

export const FACTS = {
  server: "Server",
  project: "Project",
  person: "You are",
  mode: "You get",
  recorded: "Recorded",
  use: "In use",
  expires: "Address",
  code: "Code",
  message: "Message",
  by: "By",
  request: "Request ID",
  duration: "Lasted",
  session: "Session",
  screen: "Screen",
  watchers: "Watched by",
  ends: "Ends at",
};

/** What ends a session at its expected end, after its time. */
export const ENDS_BY = {
  time_limit: "Time limit of the session",
  right_ended: "End of your access",
};

export const MODES = { control: "Screen, keyboard and mouse", view: "Screen only" };

export const ACTIONS = {
  connect: "Connect",
  logIn: "Log in",
  showLogin: "Show who is logged in",
  cancel: "Cancel",
  disconnect: "Disconnect",
  retry: "Try now",
  tryAgain: "Try again",
  moveHere: "Continue here",
  copyCommand: "Copy command",
  moreTime: "Request more time",
};

export const LABELS = {
  console: (server) =>
    `Console of ${server}. Keys go to the server. Control, Alt and Shift together leave the console.`,
  viewed: (server) => `Console of ${server}, view only.`,
  validFor: (seconds) => `Works once, for ${duration(seconds)} more`,
  inUse: (since, by) => (by ? `Since ${since}, by ${by}` : `Since ${since}, by another person`),
  useTitle: "This console is in use.",
  ownTitle: "You have this console open already.",
  ownUse: (since) => `Since ${since}, by yourself`,
  ownHint: "Taking over ends your other session of this console.",
  useHint: (mayTakeOver, mayView) => {
    if (mayTakeOver && mayView) return "Taking over ends that person's session. Viewing disturbs no one.";
    if (mayTakeOver) return "Taking over ends that person's session.";
    if (mayView) return "You may watch it without keyboard and mouse.";
    return "You may not take it over. Wait until it is free, then request a new address.";
  },
  recordedMark: ({ mode, keys_recorded: keysRecorded }) =>
    keysRecorded && mode !== "view" ? "Recorded with keys" : "Recorded",
  recorded: ({ mode, keys_recorded: keysRecorded }) =>
    keysRecorded && mode !== "view"
      ? "The screen of this session and what you type are recorded, passwords included."
      : "The screen of this session is recorded.",
  notRecorded: "No",
  recordingFailed: "Recording has failed. This session is not recorded any more.",
  newAddress: "Request a new address with:",
  contact: "Need help?",
  anyServer: "gateway console PROJECT/SERVER",
  left: (seconds) => `${duration(seconds)} left`,
  endsAt: ({ ends_at: at, ends_by: by }) => [clock(at), ENDS_BY[by]].filter(Boolean).join(": "),
  moreTimeCommand: "Request more time with: gateway requests create",
  watched: (count) => `${count} watching`,
  copied: "Copied.",
  notCopied: "The browser did not allow copying. Select the text and copy it.",
  typed: (count) => `Typed ${count} characters.`,
  tooLong: (max) => `Too long to type: at most ${max} characters.`,
  cut: "Only the first 64 KiB are shown.",
  cutSent: "Only the first 64 KiB were sent.",
  type: "Type it",
  stop: "Stop",
  sent: "Sent to the server's clipboard.",
  received: "The server sent clipboard text.",
  viewOnly: "View only: your keys and mouse are not sent.",
  control: "Your keys and mouse are sent to the server.",
  passwordRejected: "The console's server rejected the password.",
  tokenSent: "Token sent.",
  powerSent: "Sent to the server.",
  powerRejected: (message) => `The power operation has not reached the server. ${message}`,
  command: (project, server) => `gateway console ${project}/${server}`,
};

/** Power operations, as their confirmation asks. */
export const POWER = {
  shutdown: {
    title: "Shut the server down?",
    text: "Its operating system is asked to stop. The console cannot switch it on again.",
  },
  reboot: { title: "Restart the server?", text: "Its operating system is asked to restart." },
  reset: {
    title: "Reset the server?",
    text: "It restarts at once. What its operating system has not written is lost.",
  },
};

export const WARNINGS = {
  idle: {
    text: "No input for a while. The console closes soon unless you use it.",
    action: "Stay connected",
  },
  time_limit: {
    text: "The session reaches its time limit. Save your work; then open the console again.",
    action: null,
  },
  token: {
    text: "Your sign-in has expired. The console closes soon unless you renew it.",
    action: "Enter a new token",
  },
  right_ended: {
    text: (at) => `Your access ends at ${at}, and the console closes. Save your work.`,
    action: null,
  },
  control: {
    text: (at) => `Your access to keyboard and mouse ends at ${at}. You can watch after that.`,
    action: null,
  },
};

/** Return the time of day of a timestamp, in the reader's zone and with its name. */
export function clock(text) {
  return new Date(text).toLocaleTimeString([], {
    hour: "2-digit", minute: "2-digit", timeZoneName: "short",
  });
}

/** Say a duration: seconds below two minutes, then minutes, then hours and minutes. */
export function duration(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole < 120) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return rest === 0 ? `${minutes / 60} h` : `${Math.floor(minutes / 60)} h ${rest} min`;
}

/** Return a chord as people write it. */
export function chordName(names) {
  const words = { Control: "Ctrl", Delete: "Del", PrintScreen: "Print", Escape: "Esc" };
  return names.map((name) => words[name] ?? name).join(" + ");
}
