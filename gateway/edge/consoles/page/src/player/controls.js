// The controls of the player: buttons, the track with its marks, and keys.
import { element } from "../view.js";
import { SPEEDS } from "./playback.js";
import { ACTIONS, LABELS, clockText, markText, spoken } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";
const BARS = 400;
const STEP_MS = 10000;
const KEY_STEP_MS = 5000;
const KEY_STRIDE_MS = 60000;
/** "Previous mark" goes to the one before, shortly after a mark. */
const NEAR_MARK_MS = 1500;

function bar(className, x, width) {
  const rectangle = document.createElementNS(SVG, "rect");
  rectangle.setAttribute("class", className);
  rectangle.setAttribute("x", String(x));
  rectangle.setAttribute("width", String(width));
  rectangle.setAttribute("y", "0");
  rectangle.setAttribute("height", "10");
  return rectangle;
}

/** Return the track's picture: parts, seconds with input, and times with a watcher. */
function trackBars(timeline) {
  const x = (time) => (BARS * time) / Math.max(1, timeline.duration);
  const bars = timeline.parts.map(({ start, end }) => bar("part", x(start), x(end - start)));
  const busy = new Set(timeline.inputs.map((time) => Math.min(BARS - 1, Math.floor(x(time)))));
  bars.push(...[...busy].map((at) => bar("input", at, 1)));
  let since = null;
  for (const { time, type, people } of timeline.marks) {
    if (type !== "watchers") continue;
    if (since !== null) bars.push(bar("watched", x(since), x(time - since)));
    since = people.length > 0 ? time : null;
  }
  if (since !== null) bars.push(bar("watched", x(since), x(timeline.duration - since)));
  return bars;
}

export class PlayerControls {
  #playback;
  #timeline;
  #marks;
  #announce;
  #second = -1;
  #times = new Intl.DateTimeFormat([], { timeStyle: "medium" });

  constructor(playback, timeline, announce) {
    this.#playback = playback;
    this.#timeline = timeline;
    this.#announce = announce;
    this.#marks = timeline.marks;
    element("position").max = String(Math.ceil(timeline.duration / 1000));
    element("track-bars").setAttribute("viewBox", `0 0 ${BARS} 10`);
    element("track-bars").replaceChildren(...trackBars(timeline));
    element("length").textContent = clockText(timeline.duration);
    this.#fillMarks();
    this.#prepareSpeed();
    this.#listen();
    this.showPosition();
    this.showState();
  }

  showState() {
    const { isPlaying, speed, skipsIdle } = this.#playback;
    const label = isPlaying ? ACTIONS.pause : ACTIONS.play;
    element("play").setAttribute("aria-label", label);
    element("play").title = `${label} (space)`;
    element("play-icon").setAttribute("href", isPlaying ? "#i-pause" : "#i-play");
    element("speed").value = String(speed);
    element("skip-idle").setAttribute("aria-pressed", String(skipsIdle));
  }

  showPosition() {
    const { position } = this.#playback;
    const second = Math.floor(position / 1000);
    if (second === this.#second) return;
    this.#second = second;
    const slider = element("position");
    slider.value = String(Math.round(position / 1000));
    const date = new Date(this.#timeline.clock(position));
    const clock = this.#times.format(date);
    element("time").textContent = clockText(position);
    element("clock").textContent = clock;
    element("utc").textContent = LABELS.utc(date.toISOString().slice(11, 19));
    const words = LABELS.position(spoken(position), spoken(this.#timeline.duration), clock);
    slider.setAttribute("aria-valuetext", words);
  }

  #fillMarks() {
    const items = this.#marks.map((mark) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      const time = document.createElement("span");
      time.className = "mark-time";
      time.textContent = this.#times.format(this.#timeline.clock(mark.time));
      button.append(time, ` ${markText(mark)}`);
      button.addEventListener("click", () => this.seek(mark.time));
      item.append(button);
      return item;
    });
    if (this.#timeline.omittedMarks > 0) {
      const item = document.createElement("li");
      item.className = "omitted";
      item.textContent = LABELS.omitted(this.#timeline.omittedMarks);
      items.push(item);
    }
    element("marks").replaceChildren(...items);
  }

  #prepareSpeed() {
    const options = SPEEDS.map((speed) => new Option(`${speed}×`, String(speed)));
    element("speed").replaceChildren(...options);
  }

  #listen() {
    const playback = this.#playback;
    const onClick = (id, act) => {
      element(id).onclick = act;
    };
    onClick("play", () => this.#toggle());
    onClick("back", () => this.seek(playback.position - STEP_MS));
    onClick("forward", () => this.seek(playback.position + STEP_MS));
    onClick("mark-before", () => this.#toMark(-1));
    onClick("mark-after", () => this.#toMark(1));
    onClick("skip-idle", () => {
      playback.skipsIdle = !playback.skipsIdle;
    });
    element("speed").onchange = ({ target }) => {
      playback.speed = Number(target.value);
    };
    element("position").oninput = ({ target }) => {
      const time = 1000 * Number(target.value);
      // The slider has whole seconds; its end is the end of the recording.
      playback.seek(time);
    };
    element("go-form").onsubmit = (event) => {
      event.preventDefault();
      const [hours, minutes, seconds = 0] = element("go-time").value.split(":").map(Number);
      const time = 1000 * (3600 * hours + 60 * minutes + seconds);
      if (Number.isFinite(time)) this.seek(this.#timeline.positionOf(time));
    };
    for (const id of ["screen", "player"]) {
      element(id).onkeydown = (event) => this.#onKey(event);
    }
  }

  #toggle() {
    const playback = this.#playback;
    if (playback.isPlaying) playback.pause();
    else playback.play();
    const { isPlaying, position, speed } = playback;
    this.#announce(isPlaying ? LABELS.playing(speed) : LABELS.pausedAt(spoken(position)));
  }

  /** Jump to a position, and say where that is. */
  seek(time) {
    this.#playback.seek(time);
    this.#announce(LABELS.jumped(spoken(this.#playback.position)));
  }

  #toMark(direction) {
    const { position } = this.#playback;
    const times = this.#marks.map(({ time }) => time);
    const next =
      direction > 0
        ? times.find((time) => time > position)
        : times.findLast((time) => time < position - NEAR_MARK_MS);
    this.seek(next ?? (direction > 0 ? this.#timeline.duration : 0));
  }

  #changeSpeed(direction) {
    const { speed } = this.#playback;
    const index = SPEEDS.indexOf(speed) + direction;
    if (!(index in SPEEDS)) return;
    this.#playback.speed = SPEEDS[index];
    this.#announce(LABELS.playing(SPEEDS[index]));
  }

  #onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const isField = event.target.matches("select, input:not([type=range])");
    const isButton = event.target.matches("button");
    if (isField || (isButton && [" ", "Enter"].includes(event.key))) return;
    const stride = event.shiftKey ? KEY_STRIDE_MS : KEY_STEP_MS;
    const { position } = this.#playback;
    const acts = {
      " ": () => this.#toggle(),
      k: () => this.#toggle(),
      ArrowLeft: () => this.seek(position - stride),
      ArrowRight: () => this.seek(position + stride),
      j: () => this.seek(position - STEP_MS),
      l: () => this.seek(position + STEP_MS),
      Home: () => this.seek(0),
      End: () => this.seek(this.#timeline.duration),
      "<": () => this.#changeSpeed(-1),
      ">": () => this.#changeSpeed(1),
      n: () => this.#toMark(1),
      p: () => this.#toMark(-1),
      i: () => element("skip-idle").click(),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
