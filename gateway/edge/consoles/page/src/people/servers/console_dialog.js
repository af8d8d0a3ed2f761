// Opens the console of a server: requests its address and opens it in a new tab.
//
// The address is never in the document: it goes from the reply to the new tab.
import { button, shownName } from "../dom.js";
import { contactLink, failureFacts, retryButton } from "../failure.js";
import { FRESH_LOGIN_REQUIRED } from "../session.js";
import { CONSOLE, FAILURES, POWER_WORDS, SERVER } from "../texts.js";

const WAITING_AFTER_MS = 2_000;

export class ConsoleDialog {
  #tools;
  #card;
  #onOpened;
  #attempt = 0;
  #timers = [];

  /** `card`: a ModalCard. `onOpened(row)` is called after a console was opened. */
  constructor(tools, card, onOpened) {
    this.#tools = tools;
    this.#card = card;
    this.#onOpened = onOpened;
  }

  /** Request an address; `isFresh`: not one that was given before. */
  async open(row, { isFresh = false } = {}) {
    const attempt = ++this.#attempt;
    const isCurrent = () => attempt === this.#attempt;
    this.#showBusy(row, [CONSOLE.opening]);
    const slow = setTimeout(() => {
      if (isCurrent()) this.#showBusy(row, [CONSOLE.waiting]);
    }, WAITING_AFTER_MS);
    const reply = await this.#tools.session.write(`/ui/servers/${row.key}/console`, { fresh: isFresh });
    clearTimeout(slow);
    if (!isCurrent()) return;
    if (reply.status === 200) this.#opened(row, reply.data);
    else if (reply.data.error_code === FRESH_LOGIN_REQUIRED) this.#card.close();
    else this.#failed(row, reply);
  }

  close() {
    this.#attempt += 1;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
  }

  #showBusy(row, texts) {
    this.#card.show({
      title: shownName(row.name, row.id),
      texts,
      isBusy: true,
      actions: [this.#card.closer(POWER_WORDS.cancel)],
      onClose: () => this.close(),
    });
  }

  #opened(row, { url, expires_in: expiresInS, delivery }) {
    const isProxied = delivery === "proxied";
    const openTab = () => {
      // Without a referrer and without access from the new tab to this one.
      window.open(url, "_blank", "noopener,noreferrer");
      this.#onOpened(row);
      this.close();
      if (isProxied) this.#card.close();
      else this.#afterDirect(row);
      this.#tools.announce(CONSOLE.opened);
    };
    // A browser opens a tab by itself only shortly after a click.
    if (isProxied && (navigator.userActivation?.isActive ?? false)) openTab();
    else this.#ready(row, openTab, isProxied, expiresInS);
  }

  #ready(row, openTab, isProxied, expiresInS) {
    this.#card.show({
      title: shownName(row.name, row.id),
      texts: isProxied ? [CONSOLE.ready, CONSOLE.validFor(expiresInS)] : [CONSOLE.ready, CONSOLE.bearer],
      actions: [
        button(CONSOLE.openNow, openTab, { isPrimary: true }),
        this.#card.closer(POWER_WORDS.cancel),
      ],
      onClose: () => this.close(),
    });
    this.#timers.push(setTimeout(() => this.#expired(row), Math.min(expiresInS, 86_400) * 1000));
  }

  #afterDirect(row) {
    this.#card.show({
      title: shownName(row.name, row.id),
      texts: [CONSOLE.opened, CONSOLE.bearer],
      actions: [
        this.#card.closer(FAILURES.close),
        button(CONSOLE.fresh, () => this.open(row, { isFresh: true })),
      ],
      onClose: () => this.close(),
    });
  }

  #expired(row) {
    this.close();
    this.#card.show({
      title: shownName(row.name, row.id),
      texts: [CONSOLE.expired],
      actions: [
        button(SERVER.open, () => this.open(row), { isPrimary: true }),
        this.#card.closer(FAILURES.close),
      ],
      onClose: () => this.close(),
    });
  }

  #failed(row, reply) {
    const { asks, contact } = this.#tools;
    const actions = [this.#card.closer(FAILURES.close)];
    if (reply.status === 403 && asks) {
      actions.unshift(button(SERVER.ask, () => this.#tools.go(asks(row.project.project_id, row.id))));
    } else {
      actions.unshift(retryButton(reply.retryAfterS, () => this.open(row)));
    }
    this.#card.show({
      title: CONSOLE.failed,
      facts: failureFacts(reply),
      more: [contactLink(contact)].filter(Boolean),
      actions,
      onClose: () => this.close(),
    });
  }
}
