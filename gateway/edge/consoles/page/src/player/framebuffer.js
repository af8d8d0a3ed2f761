// The display that noVNC's decoders draw to, in memory: thousands of updates cost milliseconds.

const OPAQUE = 0xff000000;
const IMAGE_WITHIN_MS = 5000;

function loadImage(mime, bytes) {
  const image = new Image();
  const url = URL.createObjectURL(new Blob([bytes], { type: mime }));
  image.src = url;
  const loaded = image.decode();
  const late = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("an image takes too long")), IMAGE_WITHIN_MS);
  });
  return Promise.race([loaded, late])
    .then(() => image)
    .finally(() => URL.revokeObjectURL(url));
}

/** noVNC's Display, as far as its decoders and RFB use it (core/display.js). */
export class Framebuffer {
  width = 0;
  height = 0;
  /** False: draw in memory only, until `show`. */
  isShown = true;
  #context;
  #bytes = new Uint8ClampedArray(0);
  #pixels = new Uint32Array(0);
  #image = null;
  #damage = null;
  #queue = [];
  #flushed = null;
  #onFailure;

  /** `onFailure` receives the error of an image that cannot be decoded. */
  constructor(canvas, onFailure) {
    this.#context = canvas.getContext("2d");
    this.#onFailure = onFailure;
  }

  resize(width, height) {
    if (width === this.width && height === this.height) return;
    const bytes = new Uint8ClampedArray(4 * width * height);
    const [rows, columns] = [Math.min(height, this.height), Math.min(width, this.width)];
    for (let y = 0; y < rows; y++) {
      const start = 4 * y * this.width;
      bytes.set(this.#bytes.subarray(start, start + 4 * columns), 4 * y * width);
    }
    this.width = width;
    this.height = height;
    this.#bytes = bytes;
    this.#pixels = new Uint32Array(bytes.buffer);
    this.#image = bytes.length > 0 ? new ImageData(bytes, width, height) : null;
    this.#damage = null;
    this.#spoil(0, 0, width, height);
    if (this.isShown) this.show();
  }

  fillRect(x, y, width, height, [red, green, blue]) {
    this.#draw(() => {
      const color = (OPAQUE | (blue << 16) | (green << 8) | red) >>> 0;
      for (let row = y; row < y + height; row++) {
        const start = row * this.width + x;
        this.#pixels.fill(color, start, start + width);
      }
      this.#spoil(x, y, width, height);
    });
  }

  blitImage(x, y, width, height, array, offset) {
    // The decoders use their arrays again.
    const isQueued = this.#queue.length > 0;
    const start = array.byteOffset + offset;
    const size = 4 * width * height;
    const source = isQueued
      ? new Uint8Array(array.buffer.slice(start, start + size))
      : new Uint8Array(array.buffer, start, size);
    this.#draw(() => this.#blit(x, y, width, height, source));
  }

  copyImage(oldX, oldY, newX, newY, width, height) {
    this.#draw(() => {
      // What lies outside the screen is not copied.
      const columns = Math.min(width, this.width - oldX, this.width - newX);
      const rows = Math.min(height, this.height - oldY, this.height - newY);
      if (columns <= 0) return;
      for (let i = 0; i < rows; i++) {
        const row = newY > oldY ? rows - 1 - i : i;
        const from = (oldY + row) * this.width + oldX;
        this.#pixels.copyWithin((newY + row) * this.width + newX, from, from + columns);
      }
      this.#spoil(newX, newY, columns, rows);
    });
  }

  imageRect(x, y, width, height, mime, bytes) {
    if (width === 0 || height === 0) return;
    const entry = { isReady: false, draw: null };
    loadImage(mime, bytes)
      .then((image) => {
        if (image.width !== width || image.height !== height) {
          throw new Error("an image has another size than its rectangle");
        }
        const canvas = new OffscreenCanvas(width, height);
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const { data } = context.getImageData(0, 0, width, height);
        entry.draw = () => this.#blit(x, y, width, height, data);
      })
      .catch((error) => this.#onFailure(error))
      .finally(() => {
        entry.isReady = true;
        this.#drawQueued();
      });
    this.#queue.push(entry);
  }

  videoFrame() {
    // Recorded sessions do not use H.264.
    this.#onFailure(new Error("a video frame"));
  }

  /** noVNC has finished an update. */
  flip() {
    this.#draw(() => {
      if (this.isShown) this.show();
    });
  }

  /** Draw what has changed to the canvas. */
  show() {
    const { canvas } = this.#context;
    if (canvas.width !== this.width || canvas.height !== this.height) {
      canvas.width = this.width;
      canvas.height = this.height;
      this.#spoil(0, 0, this.width, this.height);
    }
    if (this.#damage === null || this.#image === null) return;
    const [left, top, right, bottom] = this.#damage;
    this.#context.putImageData(this.#image, 0, 0, left, top, right - left, bottom - top);
    this.#damage = null;
  }

  pending() {
    return this.#queue.length > 0;
  }

  flush() {
    if (!this.pending()) return Promise.resolve();
    this.#flushed ??= deferred();
    return this.#flushed.promise;
  }

  #blit(x, y, width, height, source) {
    const end = Math.min(width, this.width - x);
    for (let row = 0; row < height && y + row < this.height; row++) {
      const start = 4 * row * width;
      const target = 4 * ((y + row) * this.width + x);
      this.#bytes.set(source.subarray(start, start + 4 * end), target);
    }
    this.#spoil(x, y, width, height);
  }

  #draw(action) {
    if (this.pending()) this.#queue.push({ isReady: true, draw: action });
    else action();
  }

  #drawQueued() {
    while (this.#queue[0]?.isReady) {
      this.#queue[0].draw?.();
      this.#queue.shift();
    }
    if (this.pending()) return;
    this.#flushed?.resolve();
    this.#flushed = null;
  }

  #spoil(x, y, width, height) {
    const [left, top, right, bottom] = this.#damage ?? [x, y, x, y];
    this.#damage = [
      Math.min(left, x), Math.min(top, y), Math.max(right, x + width), Math.max(bottom, y + height),
    ];
  }
}

function deferred() {
  let resolve;
  const promise = new Promise((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
