// The steps of a request that a person may take, each after a confirmation.
import { plainText } from "../../bounds.js";
import { choose, labelled } from "../choice.js";
import { foreign, make } from "../dom.js";
import { REASON_CHARS_MAX } from "./model.js";
import { contentFacts } from "./parts.js";
import { STEPS } from "./texts.js";

/** Ask the person to confirm a step; return the body to send, or null. */
export async function confirmStep(step, request, tools) {
  const texts = STEPS[step];
  const { title, yes } = texts;
  const { no } = STEPS;
  const lead = foreign(texts.text(request, plainText(request.requester.subject, 60)));
  if (step === "approve") {
    const facts = contentFacts(request, tools);
    const isSure = await choose({ title, texts: [lead, texts.more], facts, yes, no });
    return isSure ? { hash: request.hash } : null;
  }
  const reason = make("textarea", { name: "step-reason", rows: 3, dir: "auto", autofocus: true });
  const problem = () =>
    [...reason.value].length > REASON_CHARS_MAX ? STEPS.longReason(REASON_CHARS_MAX) : "";
  const more = [labelled(STEPS.reason, reason)];
  const isSure = await choose({ title, texts: [lead], more, yes, no, isDanger: true, problem });
  return isSure ? { reason: reason.value.trim() } : null;
}
