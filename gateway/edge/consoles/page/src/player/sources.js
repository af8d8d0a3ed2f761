// Where the player reads chunks from: `load(part, chunk)` resolves to the bytes of one chunk.

const CACHED_BYTES_MAX = 96 * 1024 * 1024;

/** Remembers the chunks that were read last. */
export class CachedSource {
  #load;
  #bytesMax;
  #chunks = new Map();
  #bytes = 0;

  constructor(load, bytesMax = CACHED_BYTES_MAX) {
    this.#load = load;
    this.#bytesMax = bytesMax;
  }

  read(part, chunk) {
    const key = `${part}/${chunk}`;
    const known = this.#chunks.get(key);
    this.#chunks.delete(key);
    const entry = known ?? { promise: this.#load(part, chunk), size: 0 };
    this.#chunks.set(key, entry);
    if (!known) this.#follow(key, entry);
    return entry.promise;
  }

  forget() {
    this.#chunks.clear();
    this.#bytes = 0;
  }

  #follow(key, entry) {
    entry.promise.then(
      ({ length }) => {
        if (this.#chunks.get(key) !== entry) return;
        entry.size = length;
        this.#bytes += length;
        for (const [oldest, { size }] of this.#chunks) {
          if (this.#bytes <= this.#bytesMax || oldest === key) break;
          this.#chunks.delete(oldest);
          this.#bytes -= size;
        }
      },
      () => {
        if (this.#chunks.get(key) === entry) this.#chunks.delete(key);
      },
    );
  }
}

/** Read the chunks that an exported file contains: gzip in base64, one element each. */
export function embeddedChunks(find) {
  return async (part, chunk) => {
    const text = find(`chunk-${part}-${chunk}`)?.textContent ?? "";
    const packed = Uint8Array.from(atob(text.trim()), (one) => one.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(unpacked).arrayBuffer());
  };
}
