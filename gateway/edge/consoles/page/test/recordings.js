// Recordings for tests: records, chunks and parts as the gateway describes them.

/** Return the bytes of a chunk; `records`: [time, kind, text]. */
export function chunkBytes(records) {
  const encoder = new TextEncoder();
  const bytes = [];
  for (const [time, kind, text] of records) {
    const data = encoder.encode(text);
    const header = new DataView(new ArrayBuffer(9));
    header.setUint32(0, time);
    header.setUint8(4, kind);
    header.setUint32(5, data.length);
    bytes.push(...new Uint8Array(header.buffer), ...data);
  }
  return new Uint8Array(bytes);
}

export const STARTED = Date.UTC(2026, 10, 30, 8, 12, 44);

/** Return a recording: `parts`: [{after, duration, chunks: [records], marks}]. */
export function recording(parts) {
  const described = parts.map(({ after = 0, duration, chunks, marks = [], cut = false }, index) => ({
    number: index + 1,
    started_at: new Date(STARTED + after).toISOString(),
    duration_ms: duration,
    cut,
    marks,
    chunks: chunks.map((records) => ({ first_ms: records[0][0], last_ms: records.at(-1)[0] })),
  }));
  const load = async (part, chunk) => chunkBytes(parts[part - 1].chunks[chunk]);
  return { parts: described, load };
}
