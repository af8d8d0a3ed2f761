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

/** Write a page with the card that console, player and login share. */
async function writePage(name, directory = "src") {
  const [page, card] = await Promise.all([`${directory}/${name}`, "src/card.html"].map(
    (one) => readFile(one, "utf8"),
  ));
  await writeFile(`dist/${name}`, page.replace("{{card}}", () => card));
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
await writePage("player.html");
await writePage("login.html", "src/people");
await copyFile("src/people/people.html", "dist/people.html");
await copyFile("src/operators/operators.html", "dist/operators.html");
await writeFile("dist/licenses.txt", await licenseTexts());
// The last file: it exists only beside all others.
await writePage("index.html");
