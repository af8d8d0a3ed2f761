// Playing a recording: what is drawn when. It needs no page: screen, source and timers are given.
import { KINDS, Unreadable, parseRecords } from "./records.js";

export const SPEEDS = [1, 2, 4, 8, 16];
/** A second is active if the person typed in it, or at least so many bytes changed the screen. */
const ACTIVE_BYTES = 512;
const IDLE_MS = 3000;
/** How long before the next activity the playback goes on. */
const LEAD_IN_MS = 500;
/** The page draws and takes clicks at least this often while it jumps. */
const SLICE_MS = 24;
/** A page that was not drawn for longer does not skip what it missed. */
const FRAME_MS_MAX = 250;

/**
 * `listener` has the methods moved(time), changed() (playing, seeking, speed, position of the
 * screen), skipped(ms), problem({part, time, error}) and finished().
 * `openScreen(part, onFailure)` returns a screen; it stays until the next one is opened.
 */
export class Playback {
  #timeline;
  #source;
  #openScreen;
  #listener;
  #timers;
  #at = 0;
  /** The time of the last record on the screen. */
  #drawn = 0;
  #speed = 1;
  #skipsIdle = false;
  #isPlaying = false;
  #goal = null;
  #isWorking = false;
  #isClosed = false;
  #screen = null;
  #part = null;
  #chunk = 0;
  #record = 0;
  #records = null;
  #isBroken = false;
  #activity = new Map();
  #inputs;
  #activeAt = -1;
  #frame = null;

  /** `timers`: now(), frame() and yield(), which return promises of the next frame and turn. */
  constructor({ timeline, source, openScreen, listener, timers }) {
    this.#timeline = timeline;
    this.#source = source;
    this.#openScreen = openScreen;
    this.#listener = listener;
    this.#timers = timers;
    this.#inputs = timeline.inputs;
  }

  get position() {
    return this.#goal ?? this.#at;
  }

  get isPlaying() {
    return this.#isPlaying;
  }

  get isSeeking() {
    return this.#goal !== null;
  }

  /** Return how much of a jump is done, from 0 to 1. */
  get progress() {
    const start = this.#part?.start ?? 0;
    const length = (this.#goal ?? this.#at) - start;
    return length > 0 ? Math.min(1, (this.#drawn - start) / length) : 1;
  }

  get speed() {
    return this.#speed;
  }

  set speed(value) {
    this.#speed = value;
    this.#listener.changed();
  }

  get skipsIdle() {
    return this.#skipsIdle;
  }

  set skipsIdle(value) {
    this.#skipsIdle = value;
    this.#activeAt = -1;
    this.#listener.changed();
  }

  play() {
    if (this.#isPlaying) return;
    if (this.position >= this.#timeline.duration) this.#goal = 0;
    this.#isPlaying = true;
    this.#frame = null;
    this.#listener.changed();
    this.#work();
  }

  pause() {
    if (!this.#isPlaying) return;
    this.#isPlaying = false;
    this.#listener.changed();
  }

  /** Show the screen of a time, in ms since the start; a later call replaces an earlier one. */
  seek(time) {
    this.#goal = Math.min(Math.max(0, time), this.#timeline.duration);
    this.#listener.changed();
    this.#work();
  }

  close() {
    this.#isClosed = true;
    this.#isPlaying = false;
    this.#goal = null;
    this.#screen?.close();
    this.#screen = null;
  }

  /** One loop does all: what is drawn has one order. */
  async #work() {
    if (this.#isWorking) return;
    this.#isWorking = true;
    try {
      while (!this.#isClosed && (this.#goal !== null || this.#isPlaying)) {
        if (this.#goal !== null) await this.#jump(this.#goal);
        else await this.#step();
      }
    } catch (error) {
      this.#isPlaying = false;
      this.#goal = null;
      if (!this.#isClosed) this.#fail(error);
    } finally {
      this.#isWorking = false;
    }
  }

  async #jump(goal) {
    const part = this.#timeline.partAt(goal);
    if (part !== this.#part || goal < this.#drawn) this.#open(part);
    const screen = this.#screen;
    screen.isHidden = true;
    const isDone = await this.#advance(goal, () => this.#goal !== goal);
    if (this.#isClosed) return;
    if (this.#screen === screen) screen.isHidden = false;
    if (!isDone) return;
    this.#at = goal;
    this.#goal = null;
    this.#frame = null;
    this.#activeAt = -1;
    this.#listener.moved(goal);
    this.#listener.changed();
  }

  async #step() {
    const now = this.#timers.now();
    const passed = Math.min(now - (this.#frame ?? now), FRAME_MS_MAX);
    this.#frame = now;
    const { duration } = this.#timeline;
    const target = Math.min(this.#at + passed * this.#speed, duration);
    const isDone = await this.#advance(target, () => this.#goal !== null || !this.#isPlaying);
    if (!isDone || this.#isClosed) return;
    this.#at = target;
    this.#listener.moved(target);
    if (target >= duration) {
      this.#isPlaying = false;
      this.#listener.changed();
      this.#listener.finished();
      return;
    }
    if (this.#skipsIdle) await this.#skipIdle();
    if (this.#goal === null) await this.#timers.frame();
  }

  /** Draw everything up to a time; return false if `isStale` became true. */
  async #advance(target, isStale) {
    let sliceEnd = this.#timers.now() + SLICE_MS;
    if (this.#part === null) this.#open(this.#timeline.partAt(target));
    for (;;) {
      const record = await this.#peek();
      if (this.#isClosed || isStale()) return false;
      if (record === null) {
        const next = this.#timeline.parts[this.#part.index + 1];
        if (!next || next.start > target) return true;
        this.#open(next);
        continue;
      }
      if (this.#part.start + record.time > target) return true;
      this.#record += 1;
      this.#drawn = this.#part.start + record.time;
      if (record.kind !== KINDS.screen || this.#isBroken) continue;
      this.#screen.feed(record.data);
      if (this.#screen.isBusy) await this.#screen.settle();
      if (this.#timers.now() < sliceEnd) continue;
      await this.#timers.yield();
      if (this.#isClosed || isStale()) return false;
      sliceEnd = this.#timers.now() + SLICE_MS;
    }
  }

  #open(part) {
    this.#screen?.close();
    this.#part = part;
    this.#chunk = 0;
    this.#record = 0;
    this.#records = null;
    this.#isBroken = false;
    this.#drawn = part.start;
    this.#screen = this.#openScreen(part, (error) => {
      if (this.#part === part) this.#fail(error);
    });
    this.#listener.changed();
  }

  /** Return the next record of the part, or null at its end. */
  async #peek() {
    while (this.#records === null || this.#record >= this.#records.length) {
      if (this.#records !== null) {
        this.#chunk += 1;
        this.#record = 0;
        this.#records = null;
      }
      if (this.#chunk >= this.#part.chunks.length) return null;
      const [part, chunk] = [this.#part, this.#chunk];
      try {
        this.#records = await this.#load(part, chunk);
      } catch (error) {
        if (!(error instanceof Unreadable)) throw error;
        this.#fail(error, part.start + part.chunks[chunk].first_ms);
        this.#chunk = part.chunks.length;
        return null;
      }
      // The next one arrives while this one is drawn.
      if (chunk + 1 < part.chunks.length) this.#source.read(part.number, chunk + 1).catch(() => {});
    }
    return this.#records[this.#record];
  }

  async #load(part, chunk) {
    return parseRecords(await this.#source.read(part.number, chunk));
  }

  #fail(error, time = this.#drawn) {
    this.#isBroken = true;
    this.#listener.problem({ part: this.#part.index, time, error });
  }

  // Idle time

  async #skipIdle() {
    if (this.#activeAt < this.#at) {
      this.#activeAt = await this.#nextActivity();
      if (this.#isClosed || this.#goal !== null) return;
    }
    const target = this.#activeAt - LEAD_IN_MS;
    if (this.#activeAt - this.#at < IDLE_MS) return;
    this.#listener.skipped(target - this.#at);
    this.#goal = target;
  }

  /** Return the next time with activity, or the end of the recording. */
  async #nextActivity() {
    const { parts, duration } = this.#timeline;
    const input = this.#inputs.find((time) => time >= this.#at) ?? duration;
    for (const part of parts.slice(this.#part.index)) {
      if (part.start >= input) break;
      if (part.start > this.#at) return Math.min(part.start, input);
      const first = part === this.#part ? this.#chunk : 0;
      for (let chunk = first; chunk < part.chunks.length; chunk++) {
        if (part.start + part.chunks[chunk].first_ms >= input) return input;
        const found = (await this.#active(part, chunk)).find((time) => time >= this.#at);
        if (found !== undefined) return Math.min(found, input);
        if (this.#isClosed || this.#goal !== null || !this.#isPlaying) return this.#at;
      }
    }
    return input;
  }

  /** Return the times at which a chunk's active seconds begin. */
  async #active(part, chunk) {
    const key = `${part.index}/${chunk}`;
    if (!this.#activity.has(key)) {
      const records = await this.#load(part, chunk).catch((error) => {
        if (error instanceof Unreadable) return []; // reported when it is to be drawn
        throw error;
      });
      const bytes = new Map();
      for (const { time, kind, data } of records) {
        if (kind !== KINDS.screen) continue;
        const second = Math.floor(time / 1000);
        const entry = bytes.get(second) ?? { first: time, size: 0 };
        entry.size += data.length;
        bytes.set(second, entry);
      }
      const busy = [...bytes.values()].filter(({ size }) => size >= ACTIVE_BYTES);
      this.#activity.set(key, busy.map(({ first }) => part.start + first));
    }
    return this.#activity.get(key);
  }
}
