// One access request: all of it, its course, and the steps that the reader may take.
import { button, make, stateCard } from "../dom.js";
import { LiveData } from "../live_data.js";
import { followNames, liveNotice, pageLink, replaceNotice, showRefusal } from "../live_state.js";
import { isExtendable } from "./model.js";
import { leftText, requestFacts, stateBadges } from "./parts.js";
import { confirmStep } from "./steps.js";
import { REQUEST, ROW, STEPS } from "./texts.js";

const TICK_MS = 5_000;
const ORDER = ["approve", "deny", "withdraw", "end"];

export class RequestView {
  #tools;
  #live;
  #id = "";
  #status = make("div");
  #content = make("div", { className: "request" });
  #actions = make("div", { className: "row" });
  #refusal = make("div", { className: "refusal", attributes: { role: "alert" } });
  #done = make("p", { className: "done", attributes: { role: "status" } });
  #timer = 0;
  #unfollow = null;
  #isWriting = false;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root, { id }) {
    this.#id = id;
    root.replaceChildren(
      pageLink(this.#tools, "/requests", REQUEST.back, "back"),
      this.#status,
      this.#content,
      this.#refusal,
      this.#done,
      this.#actions,
    );
    this.#live = new LiveData(this.#tools.session, `/ui/requests/${id}`, () => this.#render());
    this.#render();
    this.#live.start();
    this.#unfollow = followNames(this.#tools, () => this.#render());
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  close() {
    clearInterval(this.#timer);
    this.#unfollow();
    this.#live.stop();
  }

  #render() {
    const { data: request, state, problem } = this.#live;
    if (state === "failed" && problem.status === 404) {
      this.#tools.title(REQUEST.hidden.title);
      const heading = make("h1", { className: "unseen", tabIndex: -1 }, REQUEST.hidden.title);
      this.#status.replaceChildren(heading, stateCard({ state: "empty", ...REQUEST.hidden }));
      this.#content.replaceChildren();
      this.#actions.replaceChildren();
      return;
    }
    replaceNotice(this.#status, liveNotice(this.#live, this.#tools));
    if (request === null) {
      this.#content.replaceChildren();
      this.#actions.replaceChildren();
      return;
    }
    this.#tools.title(REQUEST.title(request.role));
    this.#renderContent(request);
    this.#renderActions(request);
  }

  #renderContent(request) {
    const isIneffective = request.state === "active" && !request.in_force;
    const title = this.#content.querySelector("h1");
    const heading = title ?? make("h1", { tabIndex: -1 });
    heading.replaceChildren(make("bdi", { textContent: REQUEST.title(request.role) }));
    this.#content.replaceChildren(
      heading,
      make(
        "p",
        { className: "state-line" },
        stateBadges(request),
        make("span", { className: "left", textContent: leftText(request, this.#tools.now()) }),
      ),
      ...[
        isIneffective ? make("p", { className: "warn", textContent: ROW.notInForce }) : null,
        request.own && request.state === "pending"
          ? make("p", { className: "hint", textContent: REQUEST.ownRequest })
          : null,
      ].filter(Boolean),
      requestFacts(request, this.#tools),
    );
  }

  /** Replace the buttons only if others are needed: the focus stays. */
  #renderActions(request) {
    const steps = [
      ...ORDER.filter((one) => request.may.includes(one)),
      ...(isExtendable(request) ? ["extend"] : []),
    ];
    const key = steps.join(" ");
    if (this.#actions.dataset.steps === key && this.#actions.childElementCount === steps.length)
      return;
    this.#actions.dataset.steps = key;
    this.#actions.replaceChildren(
      ...steps.map((step, index) => this.#stepButton(step, index === 0)),
    );
  }

  #stepButton(step, isFirst) {
    const act =
      step === "extend"
        ? () => this.#tools.go(`/requests/new?from=${this.#id}`)
        : () => this.#take(step);
    return button(REQUEST.steps[step], act, { isPrimary: isFirst && step === "approve" });
  }

  async #take(step) {
    if (this.#isWriting) return;
    showRefusal(this.#refusal, null);
    this.#done.textContent = "";
    const body = await confirmStep(step, this.#live.data, this.#tools);
    if (body === null) return;
    this.#isWriting = true;
    this.#setBusy(true);
    const reply = await this.#tools.session.write(`/ui/requests/${this.#id}/${step}`, body);
    this.#isWriting = false;
    this.#setBusy(false);
    if (reply.status === 200) {
      this.#done.textContent = STEPS[step].done;
      this.#live.replace(reply.data);
      document.dispatchEvent(new Event("request-changed"));
      this.#content.querySelector("h1")?.focus();
    } else {
      showRefusal(this.#refusal, reply);
      this.#live.retry(); // what is on the screen may be what was refused
    }
  }

  #setBusy(isBusy) {
    for (const one of this.#actions.querySelectorAll("button")) one.disabled = isBusy;
    if (isBusy) this.#done.textContent = STEPS.sending;
    else if (this.#done.textContent === STEPS.sending) this.#done.textContent = "";
  }

  #tick() {
    const request = this.#live.data;
    const left = this.#content.querySelector(".left");
    if (request !== null && left !== null) left.textContent = leftText(request, this.#tools.now());
  }
}
