/**
 * Drive the page in a browser, as a plan in JSON says; print in JSON what was seen.
 *
 *   node page/test/drive.mjs < plan.json > seen.json
 *
 * plan: browser ("chrome" or "firefox"), executable, url; and any of
 *   batches: {name: [files]}: open the page anew, give it the files, and return findings, rows, times and memory
 *   views: [{name, width, height, dark, files, picture}]: the same at a size and colour scheme, with a picture
 *   plants: true: try to reach this machine from within the page in every way
 *   keyboard: true: use the page without a mouse
 */
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";

import puppeteer from "puppeteer-core";

const plan = JSON.parse(readFileSync(0, "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WAIT = { timeout: plan.timeout ?? 300_000 };
const isFirefox = plan.browser === "firefox";

async function launched(dark) {
  const options = { browser: plan.browser, executablePath: plan.executable, headless: true, protocolTimeout: WAIT.timeout };
  options.args = isFirefox ? [] : ["--no-sandbox", "--disable-gpu"];
  // 0 is dark, 1 is light; Firefox takes no other emulation.
  options.extraPrefsFirefox = { "layout.css.prefers-color-scheme.content-override": dark ? 0 : 1 };
  return puppeteer.launch(options);
}

/** Open the page; note every request, message of the console and violation of its policy. */
async function opened(browser, { width = 1280, height = 900, dark = false } = {}) {
  const page = await browser.newPage();
  const log = { requests: [], console: [], violations: [] };
  page.on("request", (request) => log.requests.push(request.url().slice(0, 200)));
  page.on("console", (message) => log.console.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => log.console.push(`error: ${error.message}`));
  await page.setViewport({ width, height });
  if (!isFirefox) await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(plan.url, { waitUntil: "load", ...WAIT });
  await page.evaluate(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      window.violations.push(`${event.effectiveDirective} ${event.blockedURI}`),
    );
  });
  await until(page, () => Boolean(window.pneumojax) || /cannot start/.test(document.getElementById("status").textContent));
  return { page, log };
}

/** Wait until a function in the page returns true; puppeteer's own way needs what the page's policy forbids. */
async function until(page, holds, ...given) {
  const end = Date.now() + WAIT.timeout;
  while (!(await page.evaluate(holds, ...given))) {
    if (Date.now() > end) throw new Error(`it took too long: ${await page.$eval("#status", (element) => element.textContent)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function give(page, files) {
  const before = await page.evaluate(() => window.pneumojax.findings().length);
  const input = await page.$("#files");
  await input.uploadFile(...files);
  const done = (count) => window.pneumojax.findings().length >= count && /of which/.test(document.getElementById("status").textContent);
  await until(page, done, before + files.length);
}

/** Return every number that the page has. */
function findings(page) {
  return page.evaluate(() => {
    const base64 = (array) => {
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      let text = "";
      for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
      return btoa(text);
    };
    return window.pneumojax.findings().map((finding) =>
      typeof finding === "string"
        ? { error: finding }
        : { logit: finding.logit, oodScore: finding.oodScore, flags: finding.flags, map: base64(finding.map), square: base64(finding.square) },
    );
  });
}

/** Press the button that saves the rows, and return what the browser is given to write. */
async function saved(page) {
  await page.evaluate(() => {
    const make = URL.createObjectURL;
    URL.createObjectURL = (blob) => make.call(URL, (window.saved = blob));
  });
  await page.$eval("#save", (button) => button.click());
  return page.evaluate(() => window.saved.text());
}

const times = (page, name) =>
  page.evaluate((name) => performance.getEntriesByName(name).map((entry) => entry.duration), name);

/** Return the memory of the browser's processes, shared pages counted once, in bytes. */
function memory(browser) {
  const parents = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      parents.set(Number(pid), Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ")[1]));
    } catch {} // it has ended
  }
  const family = [browser.process().pid];
  for (const parent of family) for (const [pid, of] of parents) if (of === parent) family.push(pid);
  const held = (pid) => {
    try {
      return 1024 * Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]);
    } catch {
      return 0;
    }
  };
  return family.map(held).reduce((sum, bytes) => sum + bytes, 0);
}

async function batch(files) {
  const browser = await launched(false);
  try {
    const { page, log } = await opened(browser);
    const seen = { ready: await times(page, "ready"), memory: [memory(browser)] };
    for (let start = 0; start < files.length; start += 50) {
      await give(page, files.slice(start, start + 50));
      seen.memory.push(memory(browser));
    }
    const csv = await saved(page);
    const status = await page.$eval("#status", (element) => element.textContent);
    return { ...seen, ...log, csv, status, findings: await findings(page), films: await times(page, "film") };
  } finally {
    await browser.close();
  }
}

async function view({ files, picture, dark, ...size }) {
  const browser = await launched(dark);
  try {
    const { page, log } = await opened(browser, { dark, ...size });
    if (files.length) await give(page, files);
    const excess = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    const colours = await page.evaluate(() => {
      const style = getComputedStyle(document.body);
      return [style.color, style.backgroundColor];
    });
    await page.evaluate(axe);
    const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    const problems = found.violations.map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)}`);
    if (picture) await page.screenshot({ path: picture, fullPage: true });
    return { ...log, excess, colours, problems, violations: await page.evaluate(() => window.violations) };
  } finally {
    await browser.close();
  }
}

/** Try to reach an address from within the page, by what a script that got in could do. */
async function plants() {
  const browser = await launched(false);
  try {
    const { page, log } = await opened(browser);
    log.requests.length = 0;
    const outcomes = await page.evaluate(async (target) => {
      const tried = {};
      const attempt = async (name, act) => {
        try {
          tried[name] = String(await act());
        } catch (error) {
          tried[name] = `refused: ${error.name ?? error.type ?? error}`;
        }
      };
      const loaded = (element, property) =>
        new Promise((resolve, reject) => {
          element.onload = () => resolve("loaded");
          element.onerror = reject;
          element[property] = target;
          document.body.append(element);
          setTimeout(() => reject({ name: "nothing came" }), 2000);
        });
      await attempt("fetch", () => fetch(target).then(() => "sent"));
      await attempt("image", () => loaded(new Image(), "src"));
      await attempt("script", () => loaded(document.createElement("script"), "src"));
      await attempt("frame", () => new Promise((resolve) => {
        const frame = document.createElement("iframe");
        frame.src = target;
        document.body.append(frame);
        setTimeout(() => resolve("see the requests"), 500);
      }));
      await attempt("socket", () => new Promise((resolve, reject) => {
        const socket = new WebSocket(target.replace("http", "ws"));
        socket.onopen = () => resolve("opened");
        socket.onerror = () => reject({ name: "error" });
      }));
      await attempt("inline script", () => {
        const script = document.createElement("script");
        script.textContent = "window.planted = true";
        document.body.append(script);
        if (!window.planted) throw { name: "not run" };
        return "run";
      });
      await attempt("eval", () => (0, eval)("1 + 1"));
      navigator.sendBeacon(target, "film");
      await new Promise((resolve) => setTimeout(resolve, 500));
      return tried;
    }, plan.target);
    return { outcomes, requests: log.requests, violations: await page.evaluate(() => window.violations) };
  } finally {
    await browser.close();
  }
}

/** Use the page by the keyboard alone. */
async function keyboard(files) {
  const browser = await launched(false);
  try {
    const { page } = await opened(browser);
    await give(page, files);
    const stops = [];
    const current = () =>
      page.evaluate(() => {
        const element = document.activeElement;
        const name = element.labels?.[0]?.textContent ?? element.textContent;
        return `${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ""} ${name.trim().slice(0, 40)}`;
      });
    const before = await page.evaluate(() => window.pneumojax.csv());
    const changed = {};
    await page.evaluate(() => document.body.focus());
    for (let stop = 0; stop < 20; stop++) {
      await page.keyboard.press("Tab");
      stops.push(await current());
      if (stops.at(-1).includes("#prevalence ")) {
        await page.keyboard.press("Home");
        changed.prevalence = await page.$eval("#prevalence", (slider) => slider.getAttribute("aria-valuetext"));
        changed.rows = (await page.evaluate(() => window.pneumojax.csv())) !== before;
      }
      if (stops.at(-1).includes("Opacity")) {
        await page.keyboard.press("Home");
        changed.opacity = await page.$eval(".stack canvas", (canvas) => canvas.style.opacity);
      }
      if (stops.at(-1).startsWith("body")) break;
    }
    return { stops, changed };
  } finally {
    await browser.close();
  }
}

const seen = { batches: {}, views: {} };
const versioned = await launched(false);
seen.version = await versioned.version();
await versioned.close();
for (const [name, files] of Object.entries(plan.batches ?? {})) seen.batches[name] = await batch(files);
for (const asked of plan.views ?? []) seen.views[asked.name] = await view(asked);
if (plan.plants) seen.plants = await plants();
if (plan.keyboard) seen.keyboard = await keyboard(plan.keyboard);
process.stdout.write(JSON.stringify(seen));
