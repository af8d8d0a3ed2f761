// The time of a recording: its parts on one axis, in ms since its start. Pure.

const WATCHERS = 3;
const INPUT = 2;
const MODE = 4;
/** Input after a pause of this length begins a new mark. */
const INPUT_PAUSE_MS = 30000;

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export class Timeline {
  /** `parts`: {started_at (RFC 3339), duration_ms, chunks: [{first_ms, last_ms}], marks}. */
  constructor(parts) {
    this.startedAt = Date.parse(parts[0]?.started_at ?? "") || 0;
    let free = 0;
    this.parts = parts.map((part, index) => {
      // Replicas' clocks differ: a part begins after the one before.
      const start = Math.max(free, Date.parse(part.started_at) - this.startedAt || 0);
      free = start + part.duration_ms;
      return { ...part, index, start, end: free };
    });
    this.duration = free;
    /** How many events `marks` does not have. */
    this.omittedMarks = parts.reduce((sum, { omitted_marks: count = 0 }) => sum + count, 0);
  }

  /** Return the part that is shown at a time: the last one that has begun. */
  partAt(time) {
    return this.parts.findLast((part) => part.start <= time) ?? this.parts[0];
  }

  /** Return whether no part runs at a time. */
  isGap(time) {
    const part = this.partAt(time);
    return part !== undefined && time > part.end;
  }

  /** Return the wall clock's time, in ms since the epoch. */
  clock(time) {
    return this.startedAt + time;
  }

  /** Return the position of the first instant with this time of day (ms since local midnight). */
  positionOf(timeOfDay) {
    const midnight = new Date(this.startedAt).setHours(0, 0, 0, 0);
    const position = midnight + timeOfDay - this.startedAt;
    return position < -1000 ? position + 86400000 : Math.max(0, position);
  }

  /** Return the times with input, ascending. */
  get inputs() {
    return this.parts.flatMap(({ start, marks = [] }) =>
      marks.filter(([, kind]) => kind === INPUT).map(([time]) => start + time));
  }

  /** Return the marks in the order of time: {time, type, ...}. */
  get marks() {
    const found = [];
    let watchers = "[]";
    let input = -Infinity;
    for (const { index, start, end, marks = [], cut } of this.parts) {
      found.push({ time: start, type: index === 0 ? "start" : "resumed", part: index });
      for (const [offset, kind, text] of marks) {
        const time = start + offset;
        if (kind === INPUT) {
          if (time - input > INPUT_PAUSE_MS) found.push({ time, type: "input" });
          input = time;
        } else if (kind === WATCHERS) {
          if (text !== watchers) found.push({ time, type: "watchers", people: parsed(text) ?? [] });
          watchers = text;
        } else if (kind === MODE) {
          found.push({ time, type: "mode", mode: text });
        }
      }
      if (cut) found.push({ time: end, type: "cut", part: index });
    }
    return found;
  }
}
