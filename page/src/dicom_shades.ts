/** From stored values to the shades that a viewer shows: `_shades` of `pneumojax/data/decode/dicom.py`. */

import type { DataSet } from "dicom-parser";

import { type Header, text } from "./dicom";
import type { Stored } from "./dicom_pixels";
import { Unreadable } from "./film";
import { roundedToEven } from "./flags";

const COUNT = 1 << 16;
const WHITE = 65535;
const TAIL = 0.02; // of the pixels; a side marker has about 0.005, and a dead pixel one
const FEW = 0.0005;
const REACH = 0.5;
const MODALITY_LUT = "x00283000";
const VOI_LUT = "x00283010";

interface Shades {
  pixels: Uint8Array;
  clipped: boolean;
}

/** Look up every stored value in a table of all that are possible. */
export function shadesOf(values: Stored["values"], header: Header, data: DataSet): Shades {
  const stored = Float64Array.from({ length: COUNT }, (_, code) => (header.signed ? (code << 16) >> 16 : code));
  const counts = new Float64Array(COUNT);
  for (let place = 0; place < values.length; place++) counts[values[place] & 0xffff]++;
  const isPadding = padding(data, header);
  const others = counts.map((count, code) => (isPadding(stored[code]) ? 0 : count));
  const counted = others.some((count) => count > 0) ? others : counts;
  const { table, clipped } = brightness(stored, counted, header, data);
  if (table.some((shade, code) => counted[code] > 0 && !Number.isFinite(shade))) {
    throw new Unreadable("its rescaling or its window is out of range");
  }
  const inverted = header.photometric === "MONOCHROME1";
  const levels = Uint8Array.from(table, (shade, code) => {
    if (isPadding(stored[code])) return 0;
    const shown = Number.isNaN(shade) ? 0 : inverted ? 1 - shade : shade;
    return Math.floor(roundedToEven(shown * WHITE) / (WHITE / 255) + 0.5);
  });
  const pixels = new Uint8Array(values.length);
  for (let place = 0; place < values.length; place++) pixels[place] = levels[values[place] & 0xffff];
  return { pixels, clipped };
}

/** Return whether a stored value marks padding. */
function padding(data: DataSet, header: Header): (value: number) => boolean {
  const [value, limit] = ["x00280120", "x00280121"].map((tag) => data.uint16(tag));
  if (value === undefined) return () => false;
  const ends = [value, limit ?? value].map((end) => (header.signed ? (end << 16) >> 16 : end));
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return (stored) => stored >= low && stored <= high;
}

/** The brightness, 0 to 1, of every stored value, and whether some pixels lie far from all others. */
function brightness(stored: Float64Array, counts: Float64Array, header: Header, data: DataSet) {
  const values = rescaled(stored, header, data);
  let table = viewed(values, header, data);
  let clipped = false;
  if (!table || !isSpread(table, counts)) {
    // A window that shows a single shade was set by mistake.
    let [low, high] = [0, 2 ** header.bits - 1];
    const meantForDisplay = header.bits <= 8 && !header.signed && values.every((value, code) => value === stored[code]);
    if (!meantForDisplay) {
      [low, high] = range(values, counts);
      const outside = sum(counts, (code) => values[code] < low || values[code] > high);
      clipped = outside > FEW * sum(counts, () => true);
    }
    table = values.map((value) => (value - low) / (high - low || 1));
  }
  return { table: table.map((shade) => Math.min(Math.max(shade, 0), 1)), clipped };
}

function isSpread(table: Float64Array, counts: Float64Array): boolean {
  let [low, high] = [Infinity, -Infinity];
  table.forEach((shade, code) => {
    if (counts[code] > 0) [low, high] = [Math.min(low, shade), Math.max(high, shade)];
  });
  return high - low > 0;
}

function sum(counts: Float64Array, includes: (code: number) => boolean): number {
  return counts.reduce((total, count, code) => (includes(code) ? total + count : total), 0);
}

/** The darkest and the brightest value, without a thin tail far from the others. */
function range(values: Float64Array, counts: Float64Array): [number, number] {
  const codes = Array.from(counts.keys()).filter((code) => counts[code] > 0);
  codes.sort((first, second) => values[first] - values[second]);
  const total = sum(counts, () => true);
  const ends = [TAIL, 1 - TAIL].map((share) => {
    let below = 0;
    return values[codes.find((code) => (below += counts[code]) / total >= share) ?? codes[codes.length - 1]];
  });
  let ordered = codes.map((code) => values[code]);
  if (ends[1] > ends[0]) {
    const reach = REACH * (ends[1] - ends[0]);
    ordered = ordered.filter((value) => value >= ends[0] - reach && value <= ends[1] + reach);
  }
  return [ordered[0], ordered[ordered.length - 1]];
}

/** Apply the modality LUT, or else slope and intercept. */
function rescaled(stored: Float64Array, header: Header, data: DataSet): Float64Array {
  const lut = lutOf(data, MODALITY_LUT, header);
  if (lut) {
    return stored.map((value) => {
      const place = value >= lut.first ? value - lut.first : 0;
      return lut.entries[Math.min(place, lut.entries.length - 1)];
    });
  }
  const [slope, intercept] = [decimal(data, "x00281053") || 1, decimal(data, "x00281052") ?? 0];
  return stored.map((value) => value * slope + intercept);
}

/** Apply the VOI LUT, or else the first window; null without either. */
function viewed(values: Float64Array, header: Header, data: DataSet): Float64Array | null {
  const lut = lutOf(data, VOI_LUT, header);
  if (lut) {
    const most = lut.entries.reduce((most, entry) => Math.max(most, entry), 0) || 1;
    const last = lut.first + lut.entries.length - 1;
    return values.map((value) => {
      const place = roundedToEven(Math.min(Math.max(value, lut.first), last)) - lut.first;
      return (lut.entries[place] ?? NaN) / most;
    });
  }
  const [center, width] = [decimal(data, "x00281050"), decimal(data, "x00281051")];
  if (center === null || width === null) return null;
  return windowed(values, center, width, text(data, "x00281056") || "LINEAR");
}

/** DICOM part 3, C.11.2.1.2 and C.11.2.1.3; null for what is no window. */
function windowed(values: Float64Array, center: number, width: number, shape: string): Float64Array | null {
  if (shape === "SIGMOID" && width > 0) return values.map((value) => 1 / (1 + Math.exp((-4 * (value - center)) / width)));
  if (shape === "LINEAR" && width >= 1) [center, width] = [center - 0.5, width - 1];
  else if (shape !== "LINEAR_EXACT" || width <= 0) return null;
  return values.map((value) => {
    if (value <= center - width / 2) return 0;
    return value > center + width / 2 ? 1 : (value - center) / width + 0.5;
  });
}

/** Return an element's first number; null if there is none that can be read. */
function decimal(data: DataSet, tag: string): number | null {
  const number = parseFloat(data.string(tag, 0) ?? "");
  return Number.isFinite(number) ? number : null;
}

interface Lut {
  first: number; // the value that the first entry is for
  entries: Uint16Array;
}

function lutOf(data: DataSet, tag: string, header: Header): Lut | null {
  const item = data.elements[tag]?.items?.[0]?.dataSet;
  if (!item) return null;
  const entries = item.elements["x00283006"];
  if (!entries) throw new Unreadable(`broken DICOM: its ${tag === VOI_LUT ? "VOI" : "Modality"}LUTSequence cannot be read`);
  const count = item.uint16("x00283002", 0) || COUNT;
  const isSigned = item.elements["x00283002"].vr === "SS" || (!item.elements["x00283002"].vr && header.signed);
  const first = (isSigned ? item.int16("x00283002", 1) : item.uint16("x00283002", 1)) ?? 0;
  const bytes = item.byteArray.subarray(entries.dataOffset, entries.dataOffset + entries.length);
  if (count <= bytes.length && bytes.length <= count + 1) return { first, entries: Uint16Array.from(bytes.subarray(0, count)) };
  if (bytes.length < 2 * count) throw new Unreadable("broken DICOM: its lookup table is cut short");
  return { first, entries: Uint16Array.from({ length: count }, (_, place) => item.uint16("x00283006", place) ?? 0) };
}
