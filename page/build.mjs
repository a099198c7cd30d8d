/** Build what `pneumojax/export/page` carries: script, style, runtime and codecs, and the licenses of all of them. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "pneumojax", "export", "page");
const modules = join(here, "node_modules");

/** WebAssembly that the page unpacks, by the name of its block. */
const WASM = {
  runtime: "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
  jpeg: "@cornerstonejs/codec-libjpeg-turbo-8bit/dist/libjpegturbowasm_decode.wasm",
  jpegls: "@cornerstonejs/codec-charls/dist/charlswasm_decode.wasm",
  jpeg2000: "@cornerstonejs/codec-openjpeg/dist/openjpegwasm_decode.wasm",
};

const shared = { bundle: true, minify: true, charset: "ascii", legalComments: "none", metafile: true, write: false };
// Emscripten asks for these in Node alone.
shared.external = ["fs", "path"];
// ONNX Runtime resolves names beside its own file, which there is none of; it loads none of them.
shared.define = { "import.meta.url": '"about:blank"' };
const script = await build({
  ...shared, entryPoints: [join(here, "src", "main.ts")], format: "esm", target: "es2022", platform: "browser",
});
const style = await build({ ...shared, entryPoints: [join(here, "src", "style.css")] });
const [code, css] = [script, style].map((built) => built.outputFiles[0].text);
for (const text of [code, css]) {
  if (/<\/(script|style)|<!--/i.test(text)) throw new Error("the bundle holds what would end its element");
}

mkdirSync(target, { recursive: true });
const written = {};
function write(name, content) {
  writeFileSync(join(target, name), content);
  written[name] = createHash("sha256").update(content).digest("hex");
}
write("page.js", code);
write("page.css", css);
for (const [name, path] of Object.entries(WASM)) {
  write(`${name}.wasm.gz`, gzipSync(readFileSync(join(modules, path)), { level: 9 }));
}
write("licenses.txt", licenses());

// A test compares these with the files: the bundle was built of what the source is now.
const sources = ["package.json", "package-lock.json", "build.mjs", ...readdirSync(join(here, "src")).map((name) => `src/${name}`)];
const digests = Object.fromEntries(sources.sort().map((name) => [name, digest(join(here, name))]));
writeFileSync(join(target, "built.json"), `${JSON.stringify({ sources: digests, files: written }, null, 1)}\n`);

function digest(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/** Return the license of every package whose code, or WebAssembly, is in the page. */
function licenses() {
  const inputs = [...Object.keys(script.metafile.inputs), ...Object.values(WASM).map((path) => `node_modules/${path}`)];
  const names = inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]).filter(Boolean);
  return [...new Set(names)].sort().map(licenseOf).join(`\n${"-".repeat(72)}\n\n`);
}

function licenseOf(name) {
  const folder = join(modules, name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((file) => /^(licen[sc]e|copying)/i.test(file));
  const own = join(here, "licenses", `${name.replace("/", "+")}.txt`);
  const text = file ? readFileSync(join(folder, file), "utf8") : existsSync(own) ? readFileSync(own, "utf8") : null;
  if (text === null) throw new Error(`${name} brings no license: write page/licenses/${name.replace("/", "+")}.txt`);
  const more = file && existsSync(own) ? `\n${readFileSync(own, "utf8")}` : "";
  return `${name} ${version} (${license})\n\n${text.trim()}\n${more}`;
}
