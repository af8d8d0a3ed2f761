import assert from "node:assert/strict";
import test from "node:test";
import { Playback } from "../src/player/playback.js";
import { Unreadable } from "../src/player/records.js";
import { CachedSource } from "../src/player/sources.js";
import { Timeline } from "../src/player/timeline.js";
import { recording } from "./recordings.js";

const SCREEN = 1;

/** Return a playback with virtual time, and what it did. */
function player(parts, { load, onFeed } = {}) {
  const made = recording(parts);
  const timeline = new Timeline(made.parts);
  const events = { drawn: [], hidden: [], screens: [], skipped: [], problems: [], finished: 0, reads: [] };
  const clock = { now: 0 };
  const frames = [];
  const source = new CachedSource(async (part, chunk) => {
    events.reads.push(`${part}/${chunk}`);
    return (load ?? made.load)(part, chunk);
  });
  const playback = new Playback({
    timeline,
    source,
    openScreen: (part, onFailure) => {
      const screen = {
        isHidden: false,
        isBusy: false,
        settle: async () => {},
        feed: (data) => {
          const text = new TextDecoder().decode(data);
          events.drawn.push(text);
          events.hidden.push(screen.isHidden);
          onFeed?.(text, { onFailure, playback });
        },
        close: () => events.screens.push(`closed ${part.number}`),
      };
      events.screens.push(`opened ${part.number}`);
      return screen;
    },
    listener: {
      moved: () => {},
      changed: () => {},
      skipped: (ms) => events.skipped.push(ms),
      problem: (problem) => events.problems.push(problem),
      finished: () => {
        events.finished += 1;
      },
    },
    timers: {
      now: () => clock.now,
      frame: () => new Promise((resume) => frames.push(resume)),
      yield: async () => {},
    },
  });
  /** Let time pass in frames. */
  const pass = async (ms, frame = 20) => {
    for (let passed = 0; passed < ms; passed += frame) {
      await settled();
      clock.now += frame;
      frames.splice(0).forEach((resume) => resume());
    }
    await settled();
  };
  return { playback, events, pass, timeline };
}

async function settled() {
  for (let turn = 0; turn < 50; turn++) await null;
}

async function jump(playback, time) {
  playback.seek(time);
  while (playback.isSeeking) await settled();
}

const LETTERS = [..."abcdefghij"].map((letter, index) => [1000 * index, SCREEN, letter]);
const ONE_PART = [{ duration: 9000, chunks: [LETTERS.slice(0, 4), LETTERS.slice(4)] }];
const TWO_PARTS = [
  { duration: 3000, chunks: [LETTERS.slice(0, 4)] },
  { after: 10000, duration: 2000, chunks: [[[0, SCREEN, "x"], [1500, SCREEN, "y"]]] },
];

test("plays each record at its time, and stops at the end", async () => {
  const { playback, events, pass } = player(ONE_PART);
  playback.play();
  await pass(2500);
  assert.equal(events.drawn.join(""), "abc");
  await pass(7000);
  assert.equal(events.drawn.join(""), "abcdefghij");
  assert.equal(playback.position, 9000);
  assert.equal(playback.isPlaying, false);
  assert.equal(events.finished, 1);
});

test("plays at sixteen times the speed", async () => {
  const { playback, events, pass } = player(ONE_PART);
  playback.speed = 16;
  playback.play();
  await pass(280);
  assert.equal(events.drawn.join(""), "abcde");
});

test("a pause holds the position", async () => {
  const { playback, events, pass } = player(ONE_PART);
  playback.play();
  await pass(1100);
  playback.pause();
  const { position } = playback;
  await pass(5000);
  assert.equal(playback.position, position);
  playback.play();
  await pass(1000);
  assert.equal(events.drawn.join(""), "abc");
});

test("a jump forward draws what lies between, on the same screen", async () => {
  const { playback, events } = player(ONE_PART);
  await jump(playback, 2000);
  await jump(playback, 6500);
  assert.equal(events.drawn.join(""), "abcdefg");
  assert.deepEqual(events.screens, ["opened 1"]);
});

test("a jump back begins the part again", async () => {
  const { playback, events } = player(ONE_PART);
  await jump(playback, 6500);
  await jump(playback, 1000);
  assert.equal(events.drawn.join(""), "abcdefgab");
  assert.deepEqual(events.screens, ["opened 1", "closed 1", "opened 1"]);
});

test("a later jump replaces one in progress", async () => {
  const { playback, events } = player(ONE_PART, {
    onFeed: (text, { playback: playing }) => {
      if (text === "e" && playing.position === 9000) playing.seek(1000);
    },
  });
  await jump(playback, 9000);
  assert.equal(playback.position, 1000);
  assert.equal(events.drawn.at(-1), "b");
});

test("a jump into a later part skips the parts before", async () => {
  const { playback, events } = player(TWO_PARTS);
  await jump(playback, 11600);
  assert.equal(events.drawn.join(""), "xy");
});

test("the picture before a gap stays until the next part", async () => {
  const { playback, events, pass } = player(TWO_PARTS);
  await jump(playback, 9900);
  assert.equal(events.drawn.join(""), "abcd");
  playback.play();
  await pass(200);
  assert.equal(events.drawn.join(""), "abcdx");
  assert.deepEqual(events.screens, ["opened 1", "closed 1", "opened 2"]);
});

test("playing again after the end begins at the start", async () => {
  const { playback, events, pass } = player(ONE_PART);
  await jump(playback, 9000);
  playback.play();
  await pass(500);
  assert.equal(events.drawn.join(""), "abcdefghija");
});

const LINE = "x".repeat(600);

test("idle time is skipped, a blinking cursor included", async () => {
  const blinks = Array.from({ length: 600 }, (_, index) => [1000 + 500 * index, SCREEN, "_"]);
  const records = [[0, SCREEN, LINE], ...blinks, [300000, SCREEN, LINE], [301000, SCREEN, LINE]];
  const { playback, events, pass } = player([{ duration: 301000, chunks: [records] }]);
  playback.skipsIdle = true;
  playback.play();
  await pass(2500);
  assert.equal(playback.position, 301000);
  assert.ok(events.skipped[0] > 290000);
  assert.equal(events.drawn.length, records.length);
});

test("input that changes little is not skipped", async () => {
  const records = [[0, SCREEN, LINE], [20000, SCREEN, "a"], [60000, SCREEN, "b"]];
  const marks = [[20000, 2, ""]];
  const { playback, events, pass } = player([{ duration: 60000, chunks: [records], marks }]);
  playback.skipsIdle = true;
  playback.play();
  await pass(300);
  assert.ok(playback.position > 19000 && playback.position < 20500);
  await pass(1000);
  assert.equal(events.drawn[1], "a");
});

test("a gap between parts counts as idle", async () => {
  const { playback, pass } = player(TWO_PARTS);
  playback.skipsIdle = true;
  await jump(playback, 3000);
  playback.play();
  await pass(700);
  assert.ok(playback.position >= 10000);
});

test("what noVNC cannot show leaves the other parts playable", async () => {
  const { playback, events } = player(TWO_PARTS, {
    onFeed: (text, { onFailure }) => text === "c" && onFailure(new Error("too large")),
  });
  await jump(playback, 3000);
  assert.equal(events.drawn.join(""), "abc");
  assert.deepEqual(events.problems.map(({ part, time }) => [part, time]), [[0, 2000]]);
  await jump(playback, 11600);
  assert.equal(events.drawn.join(""), "abcxy");
});

test("a chunk that cannot be read ends its part only", async () => {
  const made = recording([...ONE_PART, { after: 20000, duration: 0, chunks: [[[0, SCREEN, "z"]]] }]);
  const load = (part, chunk) => {
    if (part === 1 && chunk === 1) return Promise.reject(new Unreadable("changed"));
    return made.load(part, chunk);
  };
  const parts = [...ONE_PART, { after: 20000, duration: 0, chunks: [[[0, SCREEN, "z"]]] }];
  const { playback, events } = player(parts, { load });
  await jump(playback, 9000);
  assert.equal(events.drawn.join(""), "abcd");
  assert.equal(events.problems[0].time, 4000);
  await jump(playback, 20000);
  assert.equal(events.drawn.at(-1), "z");
});

test("nothing is drawn after the view is closed", async () => {
  const { playback, events, pass } = player(ONE_PART);
  playback.play();
  await pass(1100);
  playback.close();
  await pass(5000);
  assert.equal(events.drawn.join(""), "ab");
  assert.deepEqual(events.screens, ["opened 1", "closed 1"]);
});

test("a jump draws in memory, and shows the last picture", async () => {
  const { playback, events, pass } = player(ONE_PART);
  await jump(playback, 3000);
  assert.deepEqual(events.hidden, [true, true, true, true]);
  playback.play();
  await pass(1100);
  assert.equal(events.hidden.at(-1), false);
});
