// Every text of the player.
import { duration } from "../texts.js";

export const STATES = {
  empty: "No recording",
  ready: "Ready",
  opening: "Opening",
  playing: "Playing",
  paused: "Paused",
  lost: "Reconnecting",
  ended: "Closed",
};

export const CARDS = {
  empty: {
    title: "This page needs a fresh address.",
    lead: "The address of a recording works once, and within a minute. Request a new one and open it.",
  },
  ready: {
    title: "Play this recording?",
    lead: "The audit log records that you view it. Nothing is loaded yet.",
  },
  opening: { title: "Opening the recording", lead: "The gateway checks your permission again." },
  lost: {
    title: "The connection was lost.",
    lead: "The page reconnects by itself, and continues where you were.",
  },
  unknownEnd: {
    title: "The recording was closed.",
    advice: "Request a new address to play it again.",
  },
  noPicture: {
    title: "This recording has no picture.",
    lead: "The console ended before the server sent one.",
  },
};

/** What the player shows for the ends of a view; other ends have the texts of consoles. */
export const VIEW_ENDS = {
  right_ended: {
    title: "Your permission to view this recording has ended.",
    advice: "Request access to this server's recordings, then request a new address.",
  },
  token: {
    title: "Your sign-in has ended.",
    advice: "Log in again, or get a new token. Then request a new address.",
  },
  ticket: {
    title: "This address does not work any more.",
    advice: "It works once, and within a minute. Request a new address to play the recording.",
  },
  unavailable: {
    title: "This recording cannot be played now.",
    advice: "The message says why. When that has changed, request a new address.",
  },
};

export const PROBLEMS = {
  tooLarge: "From here on the server's screen is larger than 32 megapixels. It is not shown.",
  unreadable: "The rest of this part cannot be read. Verify it with: gateway recordings verify",
  notUnderstood: "The rest of this part cannot be shown: the player does not understand it.",
};

export const FACTS = {
  server: "Server",
  project: "Project",
  person: "Recorded person",
  mode: "They had",
  started: "Began",
  ended: "Ended",
  length: "Length",
  parts: "Parts",
  end: "End",
  address: "Client address",
  recording: "Recording",
};

/** How the recorded session ended, where the console's own text speaks to its person. */
export const SESSION_ENDS = {
  person: "The person disconnected.",
  right_ended: "The permission for this console ended.",
  token: "The sign-in expired.",
};

export const ACTIONS = {
  play: "Play",
  pause: "Pause",
  retry: "Try now",
  copyCommand: "Copy command",
};

export const LABELS = {
  screen: (server) => `Recorded screen of ${server}`,
  command: (id) => `gateway recordings play ${id}`,
  anyCommand: "gateway recordings play ID",
  newAddress: "Request a new address with:",
  copied: "Copied.",
  notCopied: "The browser did not allow copying. Select the text and copy it.",
  playing: (speed) => (speed === 1 ? "Playing" : `Playing at ${speed} times the speed`),
  pausedAt: (time) => `Paused at ${time}`,
  jumped: (time) => `At ${time}`,
  skipped: (ms) => `Skipped ${duration(ms / 1000)} without activity`,
  finished: "End of the recording",
  position: (time, length, clock) => `${time} of ${length}, ${clock}`,
  jumping: "Jumping",
  keysHint: "Select a line to jump there. Times are those of its first key. Passwords are among the keys.",
  keysUnreadable: "Some keystrokes cannot be read. Verify the recording with: gateway recordings verify",
  omitted: (count) => `${count} more, which this list is too long for. The audit log names watchers.`,
  gap: "The connection was lost here. Nothing was shown.",
  problems: (texts) => `This recording is not intact. ${texts.join("; ")}.`,
  cutShort: "cut short: the gateway's process failed",
  utc: (text) => `${text} UTC`,
  file: "Not encrypted",
  fileHint: "This file is not encrypted. Its content is as sensitive as the console itself.",
};

const MARKS = {
  start: () => "Begin",
  resumed: ({ part }) => `Reconnected (part ${part + 1})`,
  input: () => "Input begins",
  cut: () => "Cut short: the gateway's process failed",
  mode: ({ mode }) => (mode === "view" ? "View only from here" : "Keyboard and mouse from here"),
  watchers: ({ people }) =>
    people.length === 0
      ? "No longer watched"
      : `Watched by ${people.map((one) => one.subject).join(", ")}`,
};

export function markText(mark) {
  return MARKS[mark.type](mark);
}

/** Return a position as H:MM:SS or M:SS. */
export function clockText(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const rest = two(seconds % 60);
  return hours > 0 ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
}

/** Return a position in words. */
export function spoken(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  const parts = [
    [Math.floor(seconds / 3600), "h"], [Math.floor(seconds / 60) % 60, "min"], [seconds % 60, "s"],
  ];
  return parts.filter(([value], index) => value > 0 || index === 2)
    .map(([value, unit]) => `${value} ${unit}`).join(" ");
}
