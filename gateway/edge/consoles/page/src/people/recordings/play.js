// Playing a recording: the one-time address of the player, as the API gives it.
import { showRefusal } from "../live_state.js";
import { FRESH_LOGIN_REQUIRED } from "../session.js";
import { RECORDINGS } from "./texts.js";

/**
 * Go to the player. `pressed`: the button; `done` and `refusal`: the places of their texts.
 * `withKeys`: with the keystrokes.
 */
export async function play(tools, id, { pressed, done, refusal, withKeys = false }) {
  showRefusal(refusal, null);
  pressed.disabled = true;
  done.textContent = RECORDINGS.opening;
  const reply = await tools.session.write(`/ui/console/recordings/${id}/views`, { keys: withKeys });
  pressed.disabled = false;
  done.textContent = "";
  if (reply.status === 200) location.assign(reply.data.url);
  else {
    if (reply.data.error_code !== FRESH_LOGIN_REQUIRED) showRefusal(refusal, reply);
    pressed.focus();
  }
}

/** Return why a recording cannot be played here and now; "" if it can. */
export function whyNotPlayed({ state, here }) {
  if (state !== "ended") return RECORDINGS.later;
  return here ? "" : RECORDINGS.elsewhere;
}
