/** Rows as `--mode=predict` writes them. */

/** A row; of a film that cannot be read, only `id`, `error` and what names the model are set. */
export interface Row {
  id: string;
  probability: number | null;
  decision: string | null;
  threshold: number | null;
  decision_at_sens95: string | null;
  threshold_sens95: number | null;
  ood_score: number | null;
  flags: string[];
  error: string | null;
  model: string;
  version: string;
  digest: string;
  site: string;
}

const COLUMNS = [
  "id", "probability", "decision", "threshold", "decision_at_sens95", "threshold_sens95", "ood_score", "flags", "error",
  "model", "version", "digest", "site",
] as const;

export function csvOf(rows: readonly Row[]): string {
  const lines = rows.map((row) => COLUMNS.map((column) => cell(row[column])));
  return [[...COLUMNS], ...lines].map((line) => `${line.join(",")}\n`).join("");
}

function cell(value: string | number | string[] | null): string {
  if (value === null) return "";
  if (typeof value === "number") return shortest(value);
  return quoted(safe(Array.isArray(value) ? value.join(";") : value));
}

/** Write a number as Python does. */
export function shortest(value: number): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e16) return `${value}.0`;
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e16 ? value.toExponential() : String(value);
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}

// What a spreadsheet takes for a formula, and what a terminal obeys: see `pneumojax/runtime/tables.py`.
const FORMULA = /^(?:'*[=+\-@\n\uff1d\uff0b\uff0d\uff20]|'+\\)/;
const CONTROL = /[\x00-\x09\x0b-\x1f\x7f-\x9f]/g;

function safe(text: string): string {
  if (text.search(CONTROL) >= 0) {
    const escape = (character: string) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
    return `'\\${text.replaceAll("\\", "\\\\").replace(CONTROL, escape)}`;
  }
  return FORMULA.test(text) ? `'${text}` : text;
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
