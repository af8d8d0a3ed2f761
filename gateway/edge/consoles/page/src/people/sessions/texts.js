// Every text of the list of one's own consoles.
import { duration } from "../../texts.js";

export const SESSIONS = {
  title: "My sessions",
  lead: "Consoles that are open under your name, in any browser.",
  empty: { title: "You have no open console.", lead: "Open one from the page of a server." },
  incomplete: "The gateway cannot see all of its processes at the moment. Sessions may be missing.",
  open: "Open again",
  openHint: "Opens the server's page. Taking the console over ends it in the other place.",
  end: "End session",
  ending: "Ending",
  facts: {
    server: "Server ID",
    project: "Project",
    since: "Since",
    mode: "You have",
    state: "Connection",
    watchers: "Watched by",
    id: "Session",
  },
  modes: { control: "Screen, keyboard and mouse", view: "Screen only" },
  since: (at, seconds) => `${at} (for ${duration(seconds)})`,
  connected: "Connected",
  reconnecting: "Waits for its page to come back",
  confirm: {
    title: "End this session?",
    text: "Its page closes the console at once. The server keeps running.",
    yes: "End session",
    no: "Cancel",
  },
  ended: "The session has ended.",
};
