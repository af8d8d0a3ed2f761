// The records of a recording: time since the start of the part in ms, kind, length, payload.

export const KINDS = { screen: 1, input: 2, watchers: 3, mode: 4, end: 5, key: 6 };
const HEADER_BYTES = 9;

export class Unreadable extends Error {}

/** Return the records in the bytes of one chunk: {time, kind, data}. */
export function parseRecords(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < HEADER_BYTES) throw new Unreadable("a record is cut");
    const length = view.getUint32(at + 5);
    const end = at + HEADER_BYTES + length;
    if (end > bytes.length) throw new Unreadable("a record is cut");
    const data = bytes.subarray(at + HEADER_BYTES, end);
    records.push({ time: view.getUint32(at), kind: view.getUint8(at + 4), data });
    at = end;
  }
  return records;
}
