/** The quality flags of `pneumojax/data/audit/quality.py`, with the same limits. */

import type { Film } from "./film";
import { shrunk } from "./hash";

const MIN_SIDE = 32;
const MAX_ASPECT = 4;
const MIN_COLOUR = 8.0;
const MIN_RANGE = 20.0;
const MIN_BRIGHT = 130.0;
const MIN_GUESSED_RANGE = 60.0;
const MAX_INVERTED = -1.0;
const SIDE = 50; // colour is judged on a square this small

const PLACES: [top: number, bottom: number, left: number, right: number][] = [
  [8, 24, 14, 18], [8, 20, 6, 12], [8, 20, 20, 26], [0, 32, 0, 2], [0, 32, 30, 32],
];
const WEIGHTS = [2, -0.5, -0.5, -0.5, -0.5];

/** What each flag says to a reader; the order is that of the rows of `--mode=predict`. */
export const MEANINGS: Record<string, string> = {
  size: "A side is below 32 pixels, or four times the other: this can hardly be a whole radiograph.",
  colour: "It is in colour: this may not be a radiograph.",
  constant: "It is uniform: it shows nothing.",
  dark: "It has 16 bits, and few pixels are as bright as the one that sets its range.",
  clipped: "It has no window, and a few pixels lie far outside the range of all others.",
  lateral: "Its header says that the patient was seen from the side. The model knows frontal films alone.",
  inverted: "Bone seems dark and air bright. The model knows the opposite.",
  unlike_training: "It is not like the training images: the probability may mean nothing.",
  in_training: "The model was trained or chosen on this picture: the probability says nothing about new films.",
};

/** Return the flags of the file and of the square that the model saw, in the order of `MEANINGS`. */
export function qualityFlags(film: Film, square: Uint8Array, judgesSize: boolean): string[] {
  const [low, high] = extent(square);
  const constant = high - low < MIN_RANGE;
  const raised = new Set(film.flags);
  if (judgesSize && isAbsurd(film.width, film.height)) raised.add("size");
  if (constant) raised.add("constant");
  if (film.guessed && (high < MIN_BRIGHT || high - low < MIN_GUESSED_RANGE)) raised.add("dark");
  if (!constant && isInverted(square)) raised.add("inverted");
  return Object.keys(MEANINGS).filter((flag) => raised.has(flag));
}

function isAbsurd(width: number, height: number): boolean {
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  return short < MIN_SIDE || long > MAX_ASPECT * short;
}

/** The 1st and the 99th percentile. */
function extent(square: Uint8Array): [number, number] {
  const counts = new Uint32Array(256);
  for (const level of square) counts[level]++;
  return [0.01, 0.99].map((share) => {
    let [level, below] = [0, counts[0]];
    while (below < share * square.length) below += counts[++level];
    return level;
  }) as [number, number];
}

function isInverted(square: Uint8Array): boolean {
  const small = shrunk(square).map(roundedToEven);
  let uprightness = 0;
  PLACES.forEach(([top, bottom, left, right], index) => {
    let sum = 0;
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += small[y * 32 + x];
    uprightness += (WEIGHTS[index] * sum) / ((bottom - top) * (right - left));
  });
  const mean = small.reduce((sum, level) => sum + level, 0) / small.length;
  const variance = small.reduce((sum, level) => sum + (level - mean) ** 2, 0) / small.length;
  return uprightness / Math.max(Math.sqrt(variance), 1) < MAX_INVERTED;
}

/** Round halves to the even neighbour, as NumPy does. */
export function roundedToEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Whether the channels differ by more than noise, or a letter in colour, explains; the first three are RGB. */
export function isColour(samples: Uint8Array, channels: number, width: number, height: number): boolean {
  const [across, down] = width > 2 * SIDE || height > 2 * SIDE ? [SIDE, SIDE] : [width, height];
  let sum = 0;
  for (let y = 0; y < down; y++) {
    const [top, bottom] = span(y, down, height);
    for (let x = 0; x < across; x++) {
      const [left, right] = span(x, across, width);
      const means = [0, 0, 0];
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          const start = (row * width + column) * channels;
          for (let channel = 0; channel < 3; channel++) means[channel] += samples[start + channel];
        }
      }
      sum += (Math.max(...means) - Math.min(...means)) / ((bottom - top) * (right - left));
    }
  }
  return sum / (across * down) > MIN_COLOUR;
}

/** The pixels of a longer side that a pixel of a shorter one covers, at least one. */
function span(place: number, short: number, long: number): [number, number] {
  const start = Math.floor((place * long) / short);
  return [start, Math.max(Math.floor(((place + 1) * long) / short), start + 1)];
}
