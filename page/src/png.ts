/** PNG of 1 to 16 bits, grey or colour, as the command line reads it. */

import { decode, type DecodedPng } from "fast-png";

import { inflated } from "./embedded";
import { bitsUsed, type Film, largest, luma, narrowed, overBlack, refuseLarge, Unreadable, upright } from "./film";
import { isColour } from "./flags";
import { orientationOf, startsWith } from "./orientation";

const MAX_METADATA = 1 << 20;
const MAX_CHUNKS = 200_000;

interface Header {
  width: number;
  height: number;
  depth: number;
  channels: number;
  indexed: boolean;
  significant: number | null; // bits of a 16-bit sample, where the file says
  orientation: number;
  kept: Uint8Array[]; // the chunks that the pixels need
}

const KEPT = ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"];

export async function readPng(bytes: Uint8Array<ArrayBuffer>): Promise<Film> {
  const header = await headerOf(bytes);
  refuseLarge(header.width, header.height);
  await refuseBomb(header);
  let decoded: DecodedPng;
  try {
    decoded = decode(joined([bytes.subarray(0, 8), ...header.kept]));
  } catch {
    throw new Unreadable("a PNG that is broken or cut short");
  }
  const film = header.depth === 16 && decoded.channels === 1 ? wideGrey(decoded, header) : shallow(decoded, header);
  return upright(film, header.orientation);
}

/** Throw if the pixels inflate to far more than their number. */
async function refuseBomb({ width, height, depth, channels, kept }: Header): Promise<void> {
  const rows = height * (Math.ceil((width * depth * channels) / 8) + 1);
  const packed = kept.filter((chunk) => startsWith(chunk, 4, "IDAT")).map((chunk) => chunk.subarray(8, -4));
  try {
    await inflated(joined(packed), "deflate", 2 * rows + MAX_METADATA, false);
  } catch (error) {
    if (error instanceof RangeError) throw new Unreadable("a PNG that inflates to far more than its pixels");
  } // what else is wrong, the decoder finds
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

function wideGrey(decoded: DecodedPng, header: Header): Film {
  const values = decoded.data as Uint16Array;
  const bits = bitsUsed(largest(values), header.significant);
  const guessed = bits !== 16 && bits !== header.significant;
  return { ...size(decoded), pixels: narrowed(values, bits), flags: [], guessed };
}

/** Everything else becomes 8 bits with alpha, then grey over black. */
function shallow(decoded: DecodedPng, header: Header): Film {
  const { samples, channels, guessed } = samplesOf(decoded, header);
  const count = decoded.width * decoded.height;
  const pixels = new Uint8Array(count);
  const coloured = channels >= 3;
  for (let place = 0; place < count; place++) {
    const start = place * channels;
    let [red, green, blue] = [samples[start], samples[start], samples[start]];
    if (coloured) [green, blue] = [samples[start + 1], samples[start + 2]];
    if (channels % 2 === 0) {
      const alpha = samples[start + channels - 1];
      [red, green, blue] = [overBlack(red, alpha), overBlack(green, alpha), overBlack(blue, alpha)];
    }
    pixels[place] = coloured ? luma(red, green, blue) : red;
  }
  const flags = coloured && isColour(samples, channels, decoded.width, decoded.height) ? ["colour"] : [];
  return { ...size(decoded), pixels, flags, guessed };
}

interface Samples {
  samples: Uint8Array;
  channels: number; // 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
  guessed: boolean;
}

function samplesOf(decoded: DecodedPng, header: Header): Samples {
  if (header.indexed) return { ...ofPalette(decoded), guessed: false };
  const values = unpacked(decoded);
  let guessed = false;
  let samples: Uint8Array;
  if (decoded.depth === 16) {
    const bits = decoded.channels > 2 ? colourBits(values, decoded.channels, header.significant) : 16;
    guessed = bits !== 16 && bits !== header.significant;
    samples = Uint8Array.from(values, (value, place) => {
      const isAlpha = decoded.channels % 2 === 0 && place % decoded.channels === decoded.channels - 1;
      return isAlpha ? value >> 8 : ((value << (16 - bits)) >> 8) & 255;
    });
  } else {
    const scale = 255 / (2 ** decoded.depth - 1);
    samples = Uint8Array.from(values, (value) => value * scale);
  }
  const key = decoded.transparency;
  if (!key?.length || decoded.channels % 2 === 0) return { samples, channels: decoded.channels, guessed };
  return { samples: withKey(values, samples, decoded.channels, key), channels: decoded.channels + 1, guessed };
}

/** Of 16 bits in colour the upper 8 are kept, unless the brightest colour leaves their first one unused. */
function colourBits(values: ArrayLike<number>, channels: number, stated: number | null): number {
  let most = 0;
  for (let place = 0; place < values.length; place++) {
    const isAlpha = channels === 4 && place % 4 === 3;
    if (!isAlpha && values[place] > most) most = values[place];
  }
  return most >> 8 >= 128 ? 16 : bitsUsed(most, stated);
}

function withKey(values: ArrayLike<number>, samples: Uint8Array, channels: number, key: ArrayLike<number>): Uint8Array {
  const keyed = new Uint8Array((samples.length / channels) * (channels + 1));
  for (let from = 0, to = 0; from < samples.length; from += channels, to += channels + 1) {
    let transparent = true;
    for (let channel = 0; channel < channels; channel++) {
      keyed[to + channel] = samples[from + channel];
      transparent &&= values[from + channel] === key[channel];
    }
    keyed[to + channels] = transparent ? 0 : 255;
  }
  return keyed;
}

function ofPalette(decoded: DecodedPng): Omit<Samples, "guessed"> {
  const palette = decoded.palette ?? [];
  const channels = palette.some((entry) => entry.length === 4 && entry[3] < 255) ? 4 : 3;
  const values = unpacked(decoded);
  const samples = new Uint8Array(values.length * channels);
  for (let place = 0; place < values.length; place++) {
    const entry = palette[values[place]] ?? [0, 0, 0, 255];
    for (let channel = 0; channel < channels; channel++) samples[place * channels + channel] = entry[channel] ?? 255;
  }
  return { samples, channels };
}

/** Return one value for each sample; rows of fewer than 8 bits are packed into bytes. */
function unpacked(decoded: DecodedPng): ArrayLike<number> {
  const { data, depth, width, height } = decoded;
  if (depth >= 8) return data;
  const values = new Uint8Array(width * height);
  const stride = Math.ceil((width * depth) / 8);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      values[y * width + x] = (data[y * stride + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
    }
  }
  return values;
}

function size({ width, height }: DecodedPng): { width: number; height: number } {
  return { width, height };
}

async function headerOf(bytes: Uint8Array<ArrayBuffer>): Promise<Header> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let [exif, xmp]: (Uint8Array | null)[] = [null, null];
  let header: Header | null = null;
  let significant = 0;
  const kept: Uint8Array[] = [];
  let place = 8;
  for (let chunk = 0; place + 8 <= bytes.length; chunk++) {
    if (chunk === MAX_CHUNKS) throw new Unreadable("a PNG of more than 200,000 chunks");
    const length = view.getUint32(place);
    const name = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const content = bytes.subarray(place + 8, place + 8 + length);
    if (name === "IHDR" && !header && content.length >= 13) header = ofHeader(content);
    if (KEPT.includes(name)) kept.push(bytes.subarray(place, place + 12 + length));
    if (name === "IEND" || !/^[A-Za-z]{4}$/.test(name)) break;
    if (length <= MAX_METADATA) {
      if (name === "eXIf") exif = content;
      else if (name === "zTXt") exif ??= await rawExif(content);
      else if (name === "iTXt" && startsWith(content, 0, "XML:com.adobe.xmp\0")) xmp = content;
      else if (name === "sBIT") significant = largest(content);
    }
    place += 12 + length;
  }
  if (!header) throw new Unreadable("the file is truncated");
  const stated = header.depth === 16 && significant > 0 && significant <= 16 ? significant : null;
  return { ...header, significant: stated, orientation: orientationOf(exif, xmp), kept };
}

function ofHeader(content: Uint8Array): Header {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const colour = content[9];
  const channels = ({ 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 } as Record<number, number>)[colour] ?? 4;
  return {
    width: view.getUint32(0), height: view.getUint32(4), depth: content[8], channels, indexed: colour === 3,
    significant: null, orientation: 1, kept: [],
  };
}

/** Return the Exif in a text chunk by which ImageMagick stores it. */
async function rawExif(content: Uint8Array<ArrayBuffer>): Promise<Uint8Array | null> {
  const key = "Raw profile type exif";
  if (!startsWith(content, 0, `${key}\0\0`)) return null;
  try {
    const text = new TextDecoder("latin1").decode(await inflated(content.slice(key.length + 2), "deflate", MAX_METADATA));
    const digits = text.split("\n").slice(3).join("").replace(/\s/g, "");
    return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  } catch {
    return null;
  }
}
