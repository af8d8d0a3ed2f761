import assert from "node:assert/strict";
import test from "node:test";
import { Unreadable, parseRecords } from "../src/player/records.js";
import { CachedSource } from "../src/player/sources.js";
import { clockText, markText, spoken } from "../src/player/texts.js";
import { Timeline } from "../src/player/timeline.js";
import { STARTED, chunkBytes, recording } from "./recordings.js";

const WATCHERS = 3;
const INPUT = 2;
const CHUNKS = [[[0, 1, "a"]]];
const timeline = (parts) => new Timeline(recording(parts).parts);

test("parts keep their place in time, also if a replica's clock is behind", () => {
  const { parts, duration } = timeline([
    { duration: 5000, chunks: CHUNKS },
    { after: 20000, duration: 5000, chunks: CHUNKS },
    { after: 24000, duration: 1000, chunks: CHUNKS },
  ]);
  assert.deepEqual(parts.map(({ start, end }) => [start, end]),
    [[0, 5000], [20000, 25000], [25000, 26000]]);
  assert.equal(duration, 26000);
});

test("a time belongs to the part that began last", () => {
  const made = timeline([
    { duration: 5000, chunks: CHUNKS }, { after: 20000, duration: 5000, chunks: CHUNKS },
  ]);
  assert.deepEqual([0, 19999, 20000].map((time) => made.partAt(time).number), [1, 1, 2]);
  assert.deepEqual([4000, 6000, 21000].map((time) => made.isGap(time)), [false, true, false]);
});

test("marks name input, watchers, parts and a crash", () => {
  const anna = JSON.stringify([{ subject: "anna", issuer: "corp" }]);
  const { marks } = timeline([
    {
      duration: 90000, chunks: CHUNKS, cut: true,
      marks: [
        [1000, INPUT, ""], [2000, INPUT, ""], [3000, WATCHERS, anna], [40000, INPUT, ""],
        [50000, WATCHERS, "[]"], [60000, WATCHERS, "[]"],
      ],
    },
    { after: 100000, duration: 1000, chunks: CHUNKS },
  ]);
  assert.deepEqual(marks.map((mark) => [mark.time, markText(mark)]), [
    [0, "Begin"],
    [1000, "Input begins"],
    [3000, "Watched by anna"],
    [40000, "Input begins"],
    [50000, "No longer watched"],
    [90000, "Cut short: the gateway's process failed"],
    [100000, "Reconnected (part 2)"],
  ]);
});

test("a time of day is found, also after midnight", () => {
  const made = timeline([{ duration: 3600000, chunks: CHUNKS }]);
  const midnight = new Date(STARTED).setHours(0, 0, 0, 0);
  assert.equal(made.positionOf(STARTED + 60000 - midnight), 60000);
  assert.equal(made.positionOf(STARTED - 3600000 - midnight), 23 * 3600000);
});

test("records that are cut are not read", () => {
  const bytes = chunkBytes([[5, 1, "abc"], [70000, 2, ""]]);
  assert.deepEqual(parseRecords(bytes).map(({ time, kind, data }) => [time, kind, data.length]),
    [[5, 1, 3], [70000, 2, 0]]);
  for (const length of [bytes.length - 1, 11, 4]) {
    assert.throws(() => parseRecords(bytes.subarray(0, length)), Unreadable);
  }
});

test("the source keeps what was read last", async () => {
  const reads = [];
  const source = new CachedSource(async (part, chunk) => {
    reads.push(chunk);
    return new Uint8Array(40);
  }, 100);
  for (const chunk of [0, 1, 0, 2, 0, 1]) await source.read(1, chunk);
  assert.deepEqual(reads, [0, 1, 2, 1]);
});

test("a chunk that failed is read again", async () => {
  let attempts = 0;
  const source = new CachedSource(async () => {
    attempts += 1;
    if (attempts === 1) throw new Unreadable("lost");
    return new Uint8Array(1);
  });
  await assert.rejects(source.read(1, 0), Unreadable);
  assert.equal((await source.read(1, 0)).length, 1);
});

test("times are written and spoken", () => {
  assert.deepEqual([0, 61000, 3723000].map(clockText), ["0:00", "1:01", "1:02:03"]);
  assert.deepEqual([0, 61000, 3723000].map(spoken), ["0 s", "1 min 1 s", "1 h 2 min 3 s"]);
});
