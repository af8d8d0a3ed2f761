// Exports a recording: warns, downloads one file, and saves it when it is complete.
import { ModalCard } from "../dialog.js";
import { button, factList, make } from "../dom.js";
import { failureFacts, retryButton } from "../failure.js";
import { FRESH_LOGIN_REQUIRED } from "../session.js";
import { FAILURES } from "../texts.js";
import { EXPORT } from "./texts.js";

/** The browser reads the file after the click, at its own pace. */
const FORGET_AFTER_MS = 600_000;

export class ExportDialog {
  #tools;
  #card = new ModalCard();
  #download = null;

  constructor(tools) {
    this.#tools = tools;
  }

  /** Say what an export is, and begin it on request. */
  open(id) {
    this.#card.show({
      title: EXPORT.title,
      texts: [EXPORT.notEncrypted, EXPORT.content],
      actions: [
        // The focus is on Cancel: Enter alone exports nothing.
        button(EXPORT.cancel, () => this.#card.close(), { autofocus: true }),
        button(EXPORT.begin, () => this.#run(id)),
      ],
    });
  }

  dispose() {
    this.#download?.abort();
    this.#card.dispose();
  }

  async #run(id) {
    const download = new AbortController();
    this.#download = download;
    const received = make("p", { className: "lead", textContent: EXPORT.received(0) });
    this.#card.show({
      title: EXPORT.running,
      more: [received],
      isBusy: true,
      actions: [this.#card.closer(EXPORT.cancel)],
      onClose: () => download.abort(),
    });
    const reply = await this.#tools.session.download(`/ui/console/recordings/${id}/export`, {
      onBytes: (bytes) => {
        received.textContent = EXPORT.received(bytes);
      },
      signal: download.signal,
    });
    if (download.signal.aborted) return;
    if (reply.file !== null) this.#saved(id, reply.file);
    else if (reply.data.error_code === FRESH_LOGIN_REQUIRED) this.#card.close();
    else this.#failed(id, reply);
  }

  #saved(id, file) {
    const name = EXPORT.fileName(id);
    const url = URL.createObjectURL(file);
    setTimeout(() => URL.revokeObjectURL(url), FORGET_AFTER_MS);
    make("a", { href: url, download: name }).click();
    this.#card.show({
      title: EXPORT.saved,
      texts: [EXPORT.savedAs(name), EXPORT.notEncrypted],
      actions: [this.#card.closer(FAILURES.close)],
    });
  }

  #failed(id, reply) {
    const isCut = reply.status === 200;
    this.#card.show({
      title: EXPORT.failed,
      texts: isCut ? [EXPORT.cut] : [],
      more: isCut ? [] : [factList(failureFacts(reply))],
      actions: [
        retryButton(reply.retryAfterS, () => this.#run(id)),
        this.#card.closer(FAILURES.close),
      ],
    });
  }
}
