// The dialog of an action: what it does, its fields, a reason, and the gateway's refusal.
import { DIALOG } from "./texts.js";
import { element } from "../view.js";
import { field } from "./dom.js";

/**
 * Show the dialog; return whether the action was performed. `fields` are [name, field()] pairs;
 * `send(values)` returns "" or what went wrong. The reason is the field `reason`.
 */
export function confirmAction({ title, text, label, fields = [], send }) {
  const dialog = element("op-dialog");
  const form = element("op-dialog-form");
  const [submit, cancel] = [element("op-dialog-send"), element("op-dialog-cancel")];
  const problem = element("op-dialog-problem");
  const all = [...fields, ["reason", field(DIALOG.reason)]];
  element("op-dialog-title").textContent = title;
  element("op-dialog-text").textContent = text;
  element("op-dialog-fields").replaceChildren(...all.map(([, { box }]) => box));
  submit.textContent = label;
  cancel.textContent = DIALOG.cancel;
  problem.textContent = "";
  return new Promise((resolve) => {
    let done = false;
    const finish = () => {
      dialog.close();
      resolve(done);
    };
    cancel.onclick = finish;
    form.onsubmit = async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.textContent = "";
      const values = all.map(([name, { control }]) => [name, control.value.trim()]);
      const refusal = await send(Object.fromEntries(values));
      submit.disabled = false;
      if (refusal === "") {
        done = true;
        finish();
      } else {
        problem.textContent = refusal;
      }
    };
    dialog.onclose = () => {
      if (!dialog.open) resolve(done); // Escape; the event of an earlier dialog may come late
    };
    dialog.showModal();
    all[0][1].control.focus();
  });
}
