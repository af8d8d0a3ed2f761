// A question that a person confirms or leaves, and fields with labels.
import { ModalCard } from "./dialog.js";
import { button, make } from "./dom.js";

/**
 * Show a question; return whether the person chose `yes`. Escape and `no` leave it, and the focus
 * returns to where it was. `problem` returns what is missing before `yes`, or "".
 */
export function choose({
  title,
  texts = [],
  facts = [],
  more = [],
  yes,
  no,
  isDanger = false,
  problem = () => "",
}) {
  const before = document.activeElement;
  const card = new ModalCard();
  const missing = make("p", { className: "problem", attributes: { role: "alert" } });
  let isSure = false;
  const accept = button(
    yes,
    () => {
      missing.textContent = problem();
      isSure = missing.textContent === "";
      if (isSure) card.close();
    },
    isDanger ? { className: "danger" } : { isPrimary: true },
  );
  return new Promise((resolve) => {
    card.show({
      title,
      texts,
      facts,
      more: [...more, missing],
      actions: [accept, card.closer(no)],
      onClose: () => {
        card.dispose();
        if (before?.isConnected) before.focus();
        resolve(isSure);
      },
    });
  });
}

/** Return a label, its field and a hint; the label and the hint belong to the field. */
export function labelled(label, field, hint = "") {
  const id = `field-${field.name}`;
  field.id = id;
  if (hint) field.setAttribute("aria-describedby", `${id}-hint`);
  return make(
    "div",
    { className: "field" },
    make("label", { htmlFor: id, textContent: label }),
    field,
    hint ? make("p", { id: `${id}-hint`, className: "hint", textContent: hint }) : null,
  );
}
