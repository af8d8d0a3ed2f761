// Power operations of one server: confirmed, sent once, with their outcome.
import { button, shownName } from "../dom.js";
import { contactLink, failureFacts } from "../failure.js";
import { FRESH_LOGIN_REQUIRED } from "../session.js";
import { FAILURES, POWER, POWER_WORDS } from "../texts.js";

export class PowerDialog {
  #tools;
  #card;
  #isSending = false;

  /** `card`: a ModalCard. */
  constructor(tools, card) {
    this.#tools = tools;
    this.#card = card;
  }

  /** Confirm an action of POWER. */
  ask(row, action) {
    if (this.#isSending) return;
    const name = shownName(row.name, row.id);
    const { title, text, label } = POWER[action];
    this.#card.show({
      title: title(name),
      texts: [text],
      facts: [[FAILURES.server, row.id]],
      actions: [
        // The focus is on Cancel: Enter alone changes nothing.
        button(POWER_WORDS.cancel, () => this.#card.close(), { autofocus: true }),
        button(label, () => this.#send(row, action), { className: "danger" }),
      ],
    });
  }

  async #send(row, action) {
    this.#isSending = true;
    const title = POWER[action].label;
    this.#card.show({ title, texts: [POWER_WORDS.sending], isBusy: true });
    const reply = await this.#tools.session.write(`/ui/servers/${row.key}/power`, { action });
    this.#isSending = false;
    if (reply.data.error_code === FRESH_LOGIN_REQUIRED) {
      this.#card.close();
      return;
    }
    const isDone = reply.status >= 200 && reply.status < 300;
    if (isDone) this.#tools.servers.followPower();
    this.#card.show({
      title: isDone ? title : POWER_WORDS.failed,
      texts: isDone ? [POWER[action].done, POWER_WORDS.delay] : [],
      facts: isDone ? [] : failureFacts(reply),
      more: isDone ? [] : [contactLink(this.#tools.contact)].filter(Boolean),
      actions: [this.#card.closer(FAILURES.close)],
    });
  }
}
