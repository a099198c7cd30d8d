/** The page: files come in, rows come out, nothing is sent. */

import { atPrevalence } from "./calibration";
import { csvOf, type Row } from "./csv";
import { embedded } from "./embedded";
import { Engine, type Finding } from "./engine";
import { Unreadable } from "./film";
import { FilmView, make } from "./view";
import { counted, percent } from "./words";

const MAX_FILE_BYTES = 300_000_000;

function byId<Kind extends HTMLElement>(id: string): Kind {
  return document.getElementById(id) as Kind;
}

class Page {
  private readonly views: FilmView[] = [];
  private readonly waiting: File[] = [];
  private busy = false;
  private number = 0;

  constructor(private readonly engine: Engine) {
    const files = byId<HTMLInputElement>("files");
    files.addEventListener("change", () => {
      this.take(files.files ?? []);
      files.value = "";
    });
    byId("prevalence").addEventListener("input", () => this.restate());
    byId("as-calibrated").addEventListener("click", () => this.asCalibrated());
    byId("save").addEventListener("click", () => this.save());
    byId("clear").addEventListener("click", () => this.clear());
    byId("licensed").addEventListener("toggle", () => void showLicenses(), { once: true });
    this.takeDrops();
    this.asCalibrated();
    byId("drop").classList.add("ready");
    files.disabled = false;
    performance.measure("ready");
    say("Ready. Drop films into the page, or choose them.");
  }

  get findings(): (Finding | string)[] {
    return this.views.map((view) => view.finding);
  }

  rows(): Row[] {
    return this.views.map((view) => view.row(this.engine, this.prevalence));
  }

  private get prevalence(): number {
    const slider = byId<HTMLInputElement>("prevalence");
    const { prevalence } = this.engine.facts.calibration;
    if (slider.dataset.asCalibrated === "true") return prevalence;
    return Number((1 / (1 + Math.exp(-slider.valueAsNumber))).toPrecision(3));
  }

  private takeDrops(): void {
    const over = (event: DragEvent, isOver: boolean) => {
      event.preventDefault();
      byId("drop").classList.toggle("over", isOver);
    };
    document.addEventListener("dragover", (event) => over(event, true));
    document.addEventListener("dragleave", (event) => over(event, false));
    document.addEventListener("drop", (event) => {
      over(event, false);
      this.take(event.dataTransfer?.files ?? []);
    });
  }

  private take(files: Iterable<File>): void {
    this.waiting.push(...files);
    if (!this.busy) void this.work();
  }

  private async work(): Promise<void> {
    this.busy = true;
    for (let file = this.waiting.shift(); file; file = this.waiting.shift()) {
      say(`Reading ${file.name}; ${counted(this.waiting.length, "film")} to come.`);
      await new Promise((resolve) => setTimeout(resolve)); // lets the browser paint
      await this.show(file);
    }
    this.busy = false;
    const unread = this.findings.filter((finding) => typeof finding === "string").length;
    say(`${counted(this.views.length, "film")}, of which ${unread} cannot be read.`);
  }

  private async show(file: File): Promise<void> {
    const start = performance.now();
    const finding = await this.findingOf(file);
    performance.measure("film", { start });
    const view = await FilmView.of(file.name, finding, ++this.number);
    this.views.push(view);
    view.restate(this.engine, atPrevalence(this.engine.facts.calibration, this.prevalence));
    byId("films").append(view.article);
    this.list();
  }

  private async findingOf(file: File): Promise<Finding | string> {
    try {
      if (file.size > MAX_FILE_BYTES) return `a file of more than ${MAX_FILE_BYTES.toLocaleString("en-US")} bytes`;
      return await this.engine.look(new Uint8Array(await file.arrayBuffer()));
    } catch (error) {
      if (error instanceof Unreadable) return error.message;
      return "it is a folder, or the browser may not read it";
    }
  }

  private asCalibrated(): void {
    const { prevalence } = this.engine.facts.calibration;
    byId<HTMLInputElement>("prevalence").valueAsNumber = Math.log(prevalence / (1 - prevalence));
    this.restate(true);
  }

  private restate(asCalibrated = false): void {
    const slider = byId<HTMLInputElement>("prevalence");
    slider.dataset.asCalibrated = String(asCalibrated);
    slider.setAttribute("aria-valuetext", percent(this.prevalence));
    byId("prevalence-value").textContent = percent(this.prevalence);
    const calibration = atPrevalence(this.engine.facts.calibration, this.prevalence);
    this.views.forEach((view) => view.restate(this.engine, calibration));
    this.list();
  }

  /** Show the rows as a table. */
  private list(): void {
    const rows = this.rows();
    byId("rows").replaceChildren(...rows.map(tableRow));
    byId("results").hidden = !rows.length;
  }

  private save(): void {
    const link = make("a", { download: "predictions.csv" });
    link.href = URL.createObjectURL(new Blob([csvOf(this.rows())], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  private clear(): void {
    this.views.splice(0).forEach((view) => view.dispose());
    byId("films").replaceChildren();
    this.list();
    say("All films are removed.");
    byId("files").focus();
  }
}

async function showLicenses(): Promise<void> {
  const shown = document.querySelector("#licensed pre");
  if (shown) shown.textContent = new TextDecoder().decode(await embedded("licenses"));
}

function tableRow(row: Row): HTMLElement {
  const cells = row.error === null
    ? [row.flags.join(", "), percent(row.probability ?? 0), row.decision ?? "", row.decision_at_sens95 ?? ""]
    : [`cannot be read: ${row.error}`, "", "", ""];
  return make("tr", {}, make("th", { scope: "row" }, row.id), ...cells.map((cell) => make("td", {}, cell)));
}

function say(text: string): void {
  byId("status").textContent = text;
}

/** What the browser's console, and the tests, may look at: all numbers of all films. */
interface Opened {
  findings: () => (Finding | string)[];
  csv: () => string;
}
declare global {
  interface Window {
    pneumojax?: Opened;
  }
}

try {
  const page = new Page(await Engine.start());
  window.pneumojax = { findings: () => page.findings, csv: () => csvOf(page.rows()) };
} catch (error) {
  const reason = error instanceof Error ? error.message : String(error);
  say(`The model cannot start here (${reason}). A browser of 2023 or later is needed, and the whole file.`);
}
