// One recording: who, where and when, and what the reader may do with it.
import { plainText } from "../../bounds.js";
import { duration } from "../../texts.js";
import { button, factList, foreign, make, stateCard } from "../dom.js";
import { failureCard } from "../failure.js";
import { followNames, pageLink, serverName } from "../live_state.js";
import { LIVE } from "../live_texts.js";
import { clockTime } from "../times.js";
import { ExportDialog } from "./export_dialog.js";
import { lengthS, sizeText } from "./model.js";
import { play, whyNotPlayed } from "./play.js";
import { problemElement } from "./problems.js";
import { RECORDING, RECORDINGS } from "./texts.js";

export class RecordingView {
  #tools;
  #id;
  #recording = null;
  #isClosed = false;
  #unfollow = null;
  #exports = null;
  #heading = make("h1", { textContent: RECORDING.title, tabIndex: -1 });
  #facts = make("div");
  #actions = make("div", { className: "row" });
  #refusal = make("div", { className: "refusal", attributes: { role: "alert" } });
  #done = make("p", { className: "done", attributes: { role: "status" } });

  constructor(tools) {
    this.#tools = tools;
  }

  show(root, { id }) {
    this.#id = id;
    this.#exports = new ExportDialog(this.#tools);
    this.#tools.title(RECORDING.title);
    root.replaceChildren(
      pageLink(this.#tools, "/recordings", RECORDING.all),
      this.#heading,
      this.#facts,
      this.#refusal,
      this.#done,
      this.#actions,
    );
    this.#read();
    this.#unfollow = followNames(this.#tools, () => {
      if (this.#recording !== null) this.#render();
    });
  }

  close() {
    this.#isClosed = true;
    this.#unfollow();
    this.#exports.dispose();
  }

  async #read() {
    this.#facts.replaceChildren(stateCard({ state: "loading", title: LIVE.loading, isBusy: true }));
    const reply = await this.#tools.session.get(`/ui/console/recordings/${this.#id}`);
    if (this.#isClosed) return;
    if (reply.status === 200) {
      this.#recording = reply.data;
      this.#render();
      this.#actions.replaceChildren(...this.#made());
    } else if (reply.status === 404) {
      this.#tools.title(RECORDING.hidden.title);
      this.#heading.textContent = RECORDING.hidden.title;
      this.#heading.className = "unseen";
      this.#facts.replaceChildren(stateCard({ state: "empty", ...RECORDING.hidden }));
    } else {
      const retry = () => this.#read();
      this.#facts.replaceChildren(failureCard(LIVE.failed, reply, retry, this.#tools.contact));
    }
  }

  #render() {
    const recording = this.#recording;
    const { server, person } = recording;
    const name = serverName(this.#tools, server.project_id, server.id);
    const path = `/servers/${server.project_id}/${server.id}`;
    const seconds = lengthS(recording);
    const { columns, states } = RECORDINGS;
    this.#heading.textContent = RECORDING.of(name);
    this.#tools.title(RECORDING.of(name));
    this.#facts.replaceChildren(
      factList([
        [columns.server, pageLink(this.#tools, path, foreign(name))],
        [columns.person, `${plainText(person.subject, 255)} (${plainText(person.issuer, 255)})`],
        [RECORDING.address, plainText(recording.client_address)],
        [columns.started, clockTime(recording.started_at)],
        [
          columns.length,
          seconds === null ? (states[recording.state] ?? states.in_progress) : duration(seconds),
        ],
        [RECORDING.keys, recording.keystrokes ? RECORDING.hasKeys : RECORDING.hasNoKeys],
        [RECORDING.held, recording.held ? RECORDING.isHeld : ""],
        [RECORDING.size, sizeText(recording.bytes)],
        [columns.host, recording.hosts.map((host) => plainText(host, 255)).join(", ")],
        [RECORDING.id, recording.id],
      ]),
      problemElement(recording),
    );
  }

  #made() {
    const recording = this.#recording;
    const why = whyNotPlayed(recording);
    if (why) return [make("p", { className: "hint", textContent: why })];
    const player = (text, properties, withKeys) => {
      const pressed = button(
        text,
        () => play(this.#tools, this.#id, { pressed, done: this.#done, refusal: this.#refusal, withKeys }),
        properties,
      );
      return pressed;
    };
    const showsKeys = recording.keystrokes && (recording.may ?? []).includes("keys");
    return [
      player(RECORDINGS.play, { isPrimary: true }, false),
      showsKeys ? player(RECORDING.playWithKeys, {}, true) : null,
      button(RECORDING.export, () => this.#exports.open(this.#id)),
      make("p", { className: "hint", textContent: RECORDING.audited }),
    ].filter(Boolean);
  }
}
