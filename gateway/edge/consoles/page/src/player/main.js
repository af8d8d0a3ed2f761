// The player's entry: a page of the gateway, or an exported file with the recording in it.
import { View, element } from "../view.js";
import { Player } from "./player.js";
import { CachedSource, embeddedChunks } from "./sources.js";
import { openStage } from "./stage.js";
import { LABELS, STATES } from "./texts.js";

function playFile({ ends }, opened) {
  element("bar-file").hidden = false;
  element("file-hint").textContent = LABELS.fileHint;
  const source = new CachedSource(embeddedChunks(element));
  openStage(opened, { source, view: new View(STATES), ends });
}

const read = (id) => JSON.parse(element(id).textContent);
if (element("recording")) playFile(read("config"), read("recording"));
else new Player(read("config")).start();
