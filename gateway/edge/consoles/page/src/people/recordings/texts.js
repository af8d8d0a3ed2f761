// Every text of the pages of recordings.
import { sizeText } from "./model.js";

export const RECORDINGS = {
  title: "Recordings",
  lead: "Consoles that were recorded, where you may view recordings. The audit log records each view.",
  server: "Server ID",
  subject: "Person",
  since: "From",
  spans: { day: "Last 24 hours", week: "Last 7 days", month: "Last 30 days", all: "Any time" },
  search: "Search",
  empty: {
    title: "No recordings here.",
    lead: "There are none in this time, or none that you may view.",
  },
  columns: {
    server: "Server",
    person: "Person",
    started: "Began",
    length: "Length",
    host: "Recorded on",
    play: "Play",
  },
  play: "Play",
  playOf: (server, at) => `Play the recording of ${server}, ${at}`,
  opening: "Opening the player",
  states: { in_progress: "In progress", not_closed: "Not closed yet: its process has failed" },
  later: "When it has ended",
  elsewhere: "Not on this replica",
  problems: (texts) => `Not intact: ${texts.join("; ")}`,
  notHere: (texts) => texts.join("; "),
  held: "Retained",
  keys: "With keys",
  view: "Watched only",
  more: "Show older",
  incomplete: "The recordings of other hosts are unknown at the moment. Some may be missing.",
  count: (count) => (count === 1 ? "1 recording" : `${count} recordings`),
};

export const RECORDING = {
  title: "Recording",
  of: (server) => `Recording of ${server}`,
  all: "All recordings",
  hidden: {
    title: "You cannot see this recording.",
    lead: "It does not exist, it is older than the gateway keeps recordings, or you may not view it.",
  },
  address: "Client address",
  keys: "Keystrokes",
  hasKeys: "Recorded",
  hasNoKeys: "Not recorded",
  held: "Retention",
  isHeld: "On hold: it is not removed",
  size: "Size",
  id: "Recording",
  playWithKeys: "Play with keystrokes",
  export: "Export…",
  audited: "The audit log records each view and each export.",
};

export const EXPORT = {
  title: "Export this recording?",
  notEncrypted:
    "The file is not encrypted. Everyone who has it sees what was on the screen, without a login.",
  content:
    "It is one HTML file that plays without network. Keystrokes are not in it, and retention does not remove it. The audit log records the export.",
  begin: "Export without encryption",
  cancel: "Cancel",
  running: "Exporting",
  received: (bytes) => `${sizeText(bytes)} received. Keep this page open.`,
  saved: "Exported",
  fileName: (id) => `recording-${id}.html`,
  savedAs: (name) => `The browser saves ${name}.`,
  failed: "Not exported",
  cut: "The export ended before the file was complete, and nothing was saved: the connection was lost, or your permission has ended.",
};
