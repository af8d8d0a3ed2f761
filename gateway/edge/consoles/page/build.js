// Builds dist/: the pages with a script each, one style sheet, the icon and the license texts.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const NOVNC = "node_modules/@novnc/novnc";
const LICENSES = ["LICENSE.txt", "AUTHORS", "docs/LICENSE.MPL-2.0", "docs/LICENSE.BSD-2-Clause",
  "docs/LICENSE.BSD-3-Clause", "vendor/pako/LICENSE"];

async function licenseTexts() {
  const { version } = JSON.parse(await readFile(`${NOVNC}/package.json`, "utf8"));
  const about = `The console's page contains noVNC ${version} (core and vendor/pako), unchanged and \
minified.\nIts source is the npm package @novnc/novnc ${version}, and \
https://github.com/novnc/noVNC/tree/v${version}.\nThe page itself is part of Console Gateway \
(Apache-2.0).\n`;
  const texts = LICENSES.map(async (name) =>
    `\n==== noVNC ${version}: ${name} ====\n\n${await readFile(`${NOVNC}/${name}`, "utf8")}`);
  return about + (await Promise.all(texts)).join("");
}

/** By file: its folder, and the values of the head that all pages share. */
const PAGES = {
  "player.html": ["src", { title: "Recording", script: "player", style: "style" }],
  "login.html": ["src/people", { title: "Login", script: "login", style: "style", meta: "{{meta}}\n" }],
  "people.html": ["src/people", { title: "Console Gateway", script: "people", style: "people" }],
  "operators.html": ["src/operators", { title: "Operators", script: "operators", style: "operators" }],
  // The last file: it exists only beside all others.
  "index.html": ["src", {
    title: "Console", script: "page", style: "style", viewport: ", interactive-widget=resizes-content",
  }],
};

/** Write a page with the head, and with the card that console, player and login share. */
async function writePage(name) {
  const [directory, values] = PAGES[name];
  const [page, head, card] = await Promise.all(
    [`${directory}/${name}`, "src/head.html", "src/card.html"].map((one) => readFile(one, "utf8")),
  );
  const own = { viewport: "", meta: "", ...values };
  const filled = head.replace(/{{(\w+)}}/g, (all, key) => own[key] ?? all);
  await writeFile(`dist/${name}`, page.replace("{{head}}", () => filled).replace("{{card}}", () => card));
}

await rm("dist", { recursive: true, force: true });
await mkdir("dist");
await build({
  entryPoints: {
    page: "src/main.js",
    player: "src/player/main.js",
    login: "src/people/login.js",
    people: "src/people/main.js",
    operators: "src/operators/main.js",
    style: "src/style.css",
  },
  outdir: "dist",
  bundle: true,
  minify: true,
  // noVNC has a top-level await, which only a module may have.
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  banner: { js: "/* Contains noVNC (MPL-2.0). License texts and source: licenses.txt */" },
  logLevel: "warning",
});
await copyFile("src/icon.svg", "dist/icon.svg");
await writeFile("dist/licenses.txt", await licenseTexts());
for (const name of Object.keys(PAGES)) await writePage(name);
