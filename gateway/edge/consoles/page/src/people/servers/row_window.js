// Which rows of a long list are in the document: those on the screen, and a few around them.

const AROUND = 6;

/** Return {first, end} of the rows to render. `top`: pixels of the list above the screen. */
export function windowOf({ count, rowHeight, top, height }) {
  if (count === 0 || rowHeight <= 0) return { first: 0, end: 0 };
  const first = Math.floor(Math.max(0, top) / rowHeight) - AROUND;
  const end = Math.ceil(Math.max(0, top + height) / rowHeight) + AROUND;
  return { first: Math.min(Math.max(0, first), count), end: Math.max(0, Math.min(count, end)) };
}

export class RowWindow {
  #list;
  #render;
  #key;
  #items = [];
  #shown = new Map();
  #rowHeight = 0;
  #frame = null;
  #controller = new AbortController();

  /**
   * `list`: an element whose rows have one height. `render(item)` returns the element of a row,
   * `key(item)` identifies it.
   */
  constructor(list, { render, key }) {
    this.#list = list;
    this.#render = render;
    this.#key = key;
    const { signal } = this.#controller;
    addEventListener("scroll", () => this.#later(), { passive: true, signal });
    addEventListener("resize", () => this.#measureAgain(), { signal });
  }

  close() {
    this.#controller.abort();
    cancelAnimationFrame(this.#frame);
  }

  get count() {
    return this.#items.length;
  }

  /** Show other items; rows of the same key are rendered anew. */
  set items(items) {
    this.#items = items;
    this.#renderAgain();
  }

  /** Scroll to a row and focus its link. */
  focus(index) {
    if (index < 0 || index >= this.#items.length) return false;
    const box = this.#list.getBoundingClientRect();
    const top = box.top + index * this.#rowHeight;
    if (top < 0 || top + this.#rowHeight > innerHeight) {
      scrollTo({ top: scrollY + top - innerHeight / 3 });
    }
    this.#update();
    this.#shown.get(this.#key(this.#items[index]))?.element.querySelector("a")?.focus();
    return true;
  }

  /** Return the index of the row that has the focus, or -1. */
  get focusedIndex() {
    const key = this.#focusedKey();
    return key === null ? -1 : this.#shown.get(key).index;
  }

  #focusedKey() {
    for (const [key, row] of this.#shown) {
      if (row.element.contains(document.activeElement)) return key;
    }
    return null;
  }

  #later() {
    this.#frame ??= requestAnimationFrame(() => this.#update());
  }

  #measureAgain() {
    const height = this.#measure();
    if (height === this.#rowHeight) this.#later();
    else {
      this.#rowHeight = height;
      this.#renderAgain();
    }
  }

  /** Render every row anew; the row that has the focus gets it again. */
  #renderAgain() {
    const focused = this.#focusedKey();
    for (const row of this.#shown.values()) row.element.remove();
    this.#shown.clear();
    this.#update();
    const index = focused === null ? -1 : this.#items.findIndex((item) => this.#key(item) === focused);
    if (index < 0) return;
    this.#place(index);
    this.#shown.get(focused).element.querySelector("a")?.focus({ preventScroll: true });
  }

  #update() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#rowHeight ||= this.#measure();
    const { top } = this.#list.getBoundingClientRect();
    const { first, end } = windowOf({
      count: this.#items.length,
      rowHeight: this.#rowHeight,
      top: -top,
      height: innerHeight,
    });
    this.#list.style.height = `${this.#items.length * this.#rowHeight}px`;
    const focused = this.#focusedKey();
    for (const [key, row] of this.#shown) {
      // The focus would be lost with its row.
      if ((row.index < first || row.index >= end) && key !== focused) {
        row.element.remove();
        this.#shown.delete(key);
      }
    }
    for (let index = first; index < end; index += 1) this.#place(index);
  }

  #place(index) {
    const item = this.#items[index];
    const key = this.#key(item);
    if (this.#shown.has(key)) return;
    const element = this.#render(item, index);
    element.style.top = `${index * this.#rowHeight}px`;
    this.#shown.set(key, { element, index });
    // In the order of the list, for the Tab key and for screen readers.
    const next = [...this.#list.children].find((one) => Number(one.dataset.index) > index);
    element.dataset.index = index;
    this.#list.insertBefore(element, next ?? null);
  }

  /** Return the height of a row in pixels; each style of the page has its own. */
  #measure() {
    const probe = document.createElement("div");
    probe.className = "server-row";
    this.#list.append(probe);
    const { height } = probe.getBoundingClientRect();
    probe.remove();
    return height;
  }
}
