// The player with one recording: playback, controls, and what is said over the picture.
import { plainText } from "../bounds.js";
import { MODES } from "../texts.js";
import { ScreenTooLarge } from "../screen.js";
import { element, fillFacts } from "../view.js";
import { PlayerControls } from "./controls.js";
import { KeysPanel } from "./keys_panel.js";
import { Keystrokes } from "./keystrokes.js";
import { Playback } from "./playback.js";
import { Unreadable, parseRecords } from "./records.js";
import { ReplayScreen } from "./replay_screen.js";
import { CARDS, FACTS, LABELS, PROBLEMS, SESSION_ENDS, clockText } from "./texts.js";
import { Timeline } from "./timeline.js";

/** A jump that takes longer is announced over the picture. */
const JUMP_SHOWN_MS = 250;
const NOTICE_MS = 4000;

const turns = {
  now: () => performance.now(),
  frame: () => new Promise((resume) => {
    // A hidden page has no frames.
    if (document.hidden) setTimeout(resume, 100);
    else requestAnimationFrame(resume);
  }),
  yield: () => new Promise((resume) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resume();
    };
    port2.postMessage(null);
  }),
};

function problemText(error) {
  if (error instanceof ScreenTooLarge) return PROBLEMS.tooLarge;
  if (error instanceof Unreadable) return PROBLEMS.unreadable;
  return PROBLEMS.notUnderstood;
}

function dateTime(date) {
  return date.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
}

/** Return the facts of a recording, as the gateway or an exported file describes it. */
export function recordingFacts({ recording, ends }, timeline) {
  const { server, person } = recording;
  const name = plainText(server.name || server.id);
  const id = plainText(server.id);
  const end = SESSION_ENDS[recording.end] ?? ends.find(({ name }) => name === recording.end)?.title;
  return [
    [FACTS.server, name, name === id ? null : id],
    [FACTS.project, plainText(server.project_id)],
    [FACTS.person, plainText(person.subject), plainText(person.issuer)],
    [FACTS.mode, MODES[recording.mode] ?? plainText(recording.mode)],
    [FACTS.address, plainText(recording.client_address)],
    [FACTS.started, dateTime(new Date(timeline.startedAt)), new Date(timeline.startedAt).toISOString()],
    [FACTS.length, clockText(timeline.duration)],
    [FACTS.parts, String(timeline.parts.length)],
    [FACTS.end, end ?? (plainText(recording.end) || LABELS.cutShort)],
    [FACTS.recording, plainText(recording.id)],
  ];
}

/** Say what of a recording does not match the gateway's index, for as long as it is shown. */
function showProblems(problems) {
  element("problems").hidden = problems.length === 0;
  element("problems").textContent = LABELS.problems(problems.map((one) => plainText(one, 200)));
}

/** Show a recording, paused; return null if it has no picture. */
export function openStage(opened, options) {
  const { server } = opened.recording;
  options.view.server = plainText(server.name || server.id);
  if (opened.parts.length === 0) {
    options.view.card("ended", CARDS.noPicture);
    return null;
  }
  options.view.enter("paused");
  return new Stage(opened, options);
}

class Stage {
  #playback;
  #controls;
  #timeline;
  #view;
  #problems = new Map();
  #keystrokes = new Keystrokes();
  #keysPanel;
  #noticeTimer = null;
  #jumpTimer = null;
  #label;

  /**
   * `opened`: {recording, parts}; `at`: where to begin, in ms since the epoch, or null.
   * `readKeys(part, chunk)` resolves to the records of some keys; null: there are none.
   */
  constructor(opened, { source, readKeys = null, view, ends, at = null }) {
    this.#view = view;
    this.#timeline = new Timeline(opened.parts);
    this.#label = LABELS.screen(plainText(opened.recording.server.name || opened.recording.server.id));
    fillFacts(element("info-facts"), recordingFacts({ ...opened, ends }, this.#timeline));
    showProblems(opened.recording.problems ?? []);
    this.#playback = new Playback({
      timeline: this.#timeline,
      source,
      openScreen: (part, onFailure) =>
        new ReplayScreen(element("screen"), { label: this.#label, onFailure }),
      listener: {
        moved: () => {
          this.#controls.showPosition();
          this.#showWords();
        },
        changed: () => this.#changed(),
        skipped: (ms) => this.#notice(LABELS.skipped(ms)),
        problem: ({ part, time, error }) => {
          this.#problems.set(part, { time, text: problemText(error) });
          this.#showWords();
          view.announce(problemText(error));
        },
        finished: () => view.announce(LABELS.finished),
      },
      timers: turns,
    });
    this.#controls = new PlayerControls(this.#playback, this.#timeline, (text) => view.announce(text));
    this.#keysPanel = new KeysPanel(this.#keystrokes, {
      position: () => this.#playback.position,
      clock: (time) => this.#timeline.clock(time),
      seek: (time) => this.#controls.seek(time),
    });
    this.#prepareScale();
    const begin = at === null ? 0 : at - this.#timeline.startedAt;
    this.#playback.seek(begin);
    element("play").focus();
    if (readKeys) this.#loadKeys(readKeys);
  }

  async #loadKeys(readKeys) {
    for (const { number, start, keystroke_chunks: count } of this.#timeline.parts) {
      for (let chunk = 0; chunk < count; chunk++) {
        try {
          this.#keystrokes.add(start, parseRecords(await readKeys(number, chunk)));
        } catch (error) {
          if (!(error instanceof Unreadable)) return; // the view is over
          this.#keysPanel.showProblem();
        }
        this.#keysPanel.changed();
        this.#showWords();
      }
    }
  }

  /** Return the wall clock's time at the position, in ms since the epoch. */
  get clock() {
    return this.#timeline.clock(this.#playback.position);
  }

  pause() {
    this.#playback.pause();
  }

  /** Take the picture off the page. */
  close() {
    clearTimeout(this.#noticeTimer);
    clearTimeout(this.#jumpTimer);
    this.#playback.close();
    for (const id of ["words", "keys"]) element(id).hidden = true;
    element("keys").textContent = "";
    this.#keysPanel.clear();
    element("notice").textContent = "";
  }

  #changed() {
    this.#controls.showState();
    this.#controls.showPosition();
    this.#view.enter(this.#playback.isPlaying ? "playing" : "paused");
    document.body.dataset.jump = String(this.#playback.isSeeking);
    clearTimeout(this.#jumpTimer);
    if (this.#playback.isSeeking) {
      this.#jumpTimer = setTimeout(() => this.#showJump(), JUMP_SHOWN_MS);
    } else {
      this.#showWords();
    }
    element("jump").hidden = true;
  }

  #showJump() {
    element("jump").hidden = false;
    element("jump-bar").value = this.#playback.progress;
    if (this.#playback.isSeeking) this.#jumpTimer = setTimeout(() => this.#showJump(), 100);
  }

  #showWords() {
    const { position } = this.#playback;
    const problem = this.#problems.get(this.#timeline.partAt(position)?.index);
    let text = "";
    if (problem && position >= problem.time) text = problem.text;
    else if (this.#timeline.isGap(position)) text = LABELS.gap;
    element("words").hidden = text === "";
    element("words").textContent = text;
    element("screen").dataset.dim = String(text !== "");
    const keys = this.#keystrokes.at(position);
    element("keys").hidden = keys === "";
    element("keys").textContent = keys;
  }

  #notice(text) {
    element("notice").textContent = text;
    clearTimeout(this.#noticeTimer);
    this.#noticeTimer = setTimeout(() => {
      element("notice").textContent = "";
    }, NOTICE_MS);
  }

  #prepareScale() {
    const scale = element("tool-scale");
    scale.onclick = () => {
      const isOriginal = scale.getAttribute("aria-pressed") !== "true";
      scale.setAttribute("aria-pressed", String(isOriginal));
      element("screen").dataset.original = String(isOriginal);
    };
    const full = element("tool-full");
    full.hidden = !document.fullscreenEnabled;
    full.onclick = () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else document.documentElement.requestFullscreen();
    };
    document.addEventListener("fullscreenchange", () => {
      full.setAttribute("aria-pressed", String(document.fullscreenElement !== null));
    });
  }
}
