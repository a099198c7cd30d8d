/** What the page shows of each film: first its flags, then the probability, then the film under its heat map. */

import { atPrevalence, type Calibration } from "./calibration";
import type { Row } from "./csv";
import type { Engine, Finding } from "./engine";
import { MEANINGS } from "./flags";
import { mapCanvas, pictureOf, strongest } from "./pictures";
import { ofHundred, percent, placeOfStrongest } from "./words";

type Content = string | Node | null;
const OPACITY = 60; // percent, at the start

/** Make an element with attributes and content. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, string> = {},
  ...content: Content[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...content.filter((part) => part !== null));
  return element;
}

/** A film in the page, or the reason why it cannot be read. */
export class FilmView {
  readonly article: HTMLElement;
  private readonly answer = make("div", { class: "answer" });

  private constructor(
    readonly id: string,
    readonly finding: Finding | string,
    number: number,
    private readonly picture: string | null,
  ) {
    const heading = make("h3", { id: `film-${number}` }, id);
    const attributes = { class: "film", "aria-labelledby": heading.id };
    if (typeof finding === "string") {
      const reason = make("p", { class: "reason" }, make("strong", {}, "It cannot be read: "), `${finding}.`);
      this.article = make("article", attributes, heading, reason);
    } else {
      const columns = make("div", { class: "columns" }, this.answer, figureOf(this, finding));
      this.article = make("article", attributes, heading, flagsOf(finding), columns);
    }
  }

  static async of(id: string, finding: Finding | string, number: number): Promise<FilmView> {
    const picture = typeof finding === "string" ? null : URL.createObjectURL(await pictureOf(finding.film));
    if (typeof finding !== "string") finding.film.pixels = new Uint8Array(); // it is large, and no longer needed
    return new FilmView(id, finding, number, picture);
  }

  get source(): string {
    return this.picture ?? "";
  }

  row(engine: Engine, prevalence: number): Row {
    return engine.row(this.id, this.finding, atPrevalence(engine.facts.calibration, prevalence));
  }

  /** Show what holds at the calibration's prevalence. */
  restate(engine: Engine, calibration: Calibration): void {
    const row = engine.row(this.id, this.finding, calibration);
    if (row.probability !== null) this.answer.replaceChildren(...answerOf(row, row.probability, calibration));
  }

  dispose(): void {
    if (this.picture) URL.revokeObjectURL(this.picture);
  }
}

function flagsOf(finding: Finding): HTMLElement {
  if (!finding.flags.length) return make("p", { class: "note" }, "No flag is raised. That means little.");
  const items = finding.flags.map((flag) => make("li", {}, make("strong", {}, flag), `: ${MEANINGS[flag]}`));
  return make("div", { class: "flags" }, make("h4", {}, "Read this first"), make("ul", {}, ...items));
}

function answerOf(row: Row, p: number, calibration: Calibration): HTMLElement[] {
  const decision = (name: string, decided: string | null, threshold: number) =>
    make("li", {}, `${name} threshold (${percent(threshold)}): `, make("strong", {}, decided ?? ""));
  return [
    make("p", { class: "probability" }, make("strong", {}, percent(p)), " probability of pneumonia"),
    make(
      "p",
      { class: "note" },
      `Of 100 films with this answer, ${ofHundred(p)} show pneumonia, where ${percent(calibration.prevalence)} of all films do.`,
    ),
    barOf(p, calibration),
    make(
      "ul",
      { class: "decisions" },
      decision("Balanced", row.decision, calibration.threshold),
      decision("Sensitive", row.decision_at_sens95, calibration.threshold_sens95),
    ),
  ];
}

/** Draw a probability between 0 and 1, with both thresholds. */
function barOf(p: number, { threshold, threshold_sens95 }: Calibration): HTMLElement {
  const fill = make("div", { class: "fill" });
  fill.style.width = `${100 * p}%`;
  const mark = (name: string, place: number) => {
    const made = make("div", { class: `mark ${name}` });
    made.style.left = `${100 * place}%`;
    return made;
  };
  const label =
    `Probability ${percent(p)}, on a scale from 0 to 100 %. ` +
    `The balanced threshold is at ${percent(threshold)}, the sensitive one at ${percent(threshold_sens95)}.`;
  const bar = make("div", { class: "bar" }, fill, mark("balanced", threshold), mark("sensitive", threshold_sens95));
  const ends = make("div", { class: "ends", "aria-hidden": "true" }, make("span", {}, "0"), make("span", {}, "100 %"));
  const key = make("p", { class: "note key", "aria-hidden": "true" });
  key.append(make("i", { class: "balanced" }), " balanced threshold ", make("i", { class: "sensitive" }), " sensitive threshold");
  return make("div", { class: "scale" }, make("div", { role: "img", "aria-label": label }, bar), ends, key);
}

function figureOf(view: FilmView, finding: Finding): HTMLElement {
  const film = make("img", { src: view.source, alt: `Film ${view.id}` });
  const canvas = mapCanvas(finding.map, finding.size);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", descriptionOf(finding));
  const slider = make("input", { type: "range", min: "0", max: "100", value: String(OPACITY) });
  const show = () => {
    canvas.style.opacity = String(slider.valueAsNumber / 100);
    slider.setAttribute("aria-valuetext", `${slider.value} %`);
  };
  slider.addEventListener("input", show);
  show();
  return make(
    "figure",
    {},
    make("div", { class: "stack" }, film, canvas),
    make("label", { class: "slider" }, "Opacity of the heat map", slider),
    legendOf(strongest(finding.map)),
    make("figcaption", {}, `Grad-CAM of the square that the model saw. ${descriptionOf(finding)} It is no proof of an answer.`),
  );
}

function descriptionOf({ map, size }: Finding): string {
  const [more, less] = [placeOfStrongest(map, size, 1), placeOfStrongest(map, size, -1)];
  const named = (what: string, place: string | null) => (place ? `strongest evidence ${what} in the ${place}` : `no evidence ${what}`);
  return `Heat map: ${named("for pneumonia", more)}, ${named("against it", less)} of the picture.`;
}

function legendOf(most: number): HTMLElement {
  const value = most.toPrecision(2);
  return make(
    "div",
    { class: "legend" },
    make("span", {}, `against \u2212${value}`),
    make("div", { class: "colours", "aria-hidden": "true" }),
    make("span", {}, `for +${value}`),
  );
}
