/** The pixels that a DICOM file stores: uncompressed, run lengths, JPEG, JPEG-LS or JPEG 2000. */

import { type DataSet, type Element, readEncapsulatedPixelDataFromFragments } from "dicom-parser";

import type { Header } from "./dicom";
import { type Decoded, decodeJpeg2000, decodeJpegLs } from "./codecs";
import { Unreadable } from "./film";
import { frameOf, pixelsOf, refuseUnreadable } from "./jpeg";
import { losslessJpeg } from "./lossless";

const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const PREFIX = "1.2.840.10008.1.2.";
const PIXEL_DATA = "x7fe00010";

/** Values of 8 or 16 bits as they are stored, shifted to the lowest bits; of three samples RGB or YBR. */
export interface Stored {
  values: Uint8Array | Uint16Array | Int16Array;
  photometric: string;
}

type Decoder = (stream: Uint8Array, header: Header) => Promise<Uint8Array | Uint16Array>;
interface Codec {
  name: string;
  decode: Decoder | null; // null: not read here
}

const CODECS: Record<string, Codec> = {
  "4.50": { name: "JPEG Baseline", decode: lossyJpeg },
  "4.51": { name: "JPEG Extended", decode: lossyJpeg },
  "4.57": { name: "JPEG Lossless", decode: losslessJpeg },
  "4.70": { name: "JPEG Lossless", decode: losslessJpeg },
  "4.80": { name: "JPEG-LS", decode: fitting(decodeJpegLs) },
  "4.81": { name: "JPEG-LS", decode: fitting(decodeJpegLs) },
  "4.90": { name: "JPEG 2000", decode: fitting(decodeJpeg2000) },
  "4.91": { name: "JPEG 2000", decode: fitting(decodeJpeg2000) },
  "4.201": { name: "High-Throughput JPEG 2000", decode: null },
  "4.202": { name: "High-Throughput JPEG 2000", decode: null },
  "4.203": { name: "High-Throughput JPEG 2000", decode: null },
  "5": { name: "run lengths", decode: runLengths },
};
const UNCOMPRESSED = ["1.2.840.10008.1.2", `${PREFIX}1`, `${PREFIX}1.99`, BIG_ENDIAN];

export async function storedValues(data: DataSet, header: Header): Promise<Stored> {
  const element = data.elements[PIXEL_DATA];
  const codec = CODECS[header.syntax.slice(PREFIX.length)];
  if (UNCOMPRESSED.includes(header.syntax)) {
    if (!element) throw new Unreadable("it has no PixelData, or is cut short");
    const raw = uncompressed(data, element, header);
    return { values: shifted(raw, header, unusedBits(header)), photometric: header.photometric };
  }
  if (!codec) throw new Unreadable("its transfer syntax is not supported");
  if (!codec.decode) throw new Unreadable(`its compression, ${codec.name}, is not read here, but by the command line`);
  if (!element?.fragments) throw new Unreadable("it has no PixelData, or is cut short");
  const stream = readEncapsulatedPixelDataFromFragments(data, element, 0, element.fragments.length);
  if (!stream.length) throw new Unreadable("its pixel data is cut short");
  let raw: Uint8Array | Uint16Array;
  try {
    raw = await codec.decode(Uint8Array.from(stream), header);
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    throw new Unreadable("the compressed image is broken, or its form differs from the header's");
  }
  if (raw.length !== header.rows * header.columns * header.samples) {
    throw new Unreadable("the compressed image is broken, or its size differs from the header's");
  }
  const values = shifted(raw, header, codec.decode === runLengths ? unusedBits(header) : 0);
  const isRgb = codec.decode === lossyJpeg || ["YBR_ICT", "YBR_RCT"].includes(header.photometric);
  return { values, photometric: isRgb ? "RGB" : header.photometric };
}

/** Refuse what does not have the size that the header says. */
function fitting(decode: (stream: Uint8Array) => Promise<Decoded>): Decoder {
  return async (stream, header) => {
    const { samples, width, height, channels } = await decode(stream);
    if (width !== header.columns || height !== header.rows || channels !== header.samples) {
      throw new Unreadable("the compressed image is broken, or its size differs from the header's");
    }
    return samples;
  };
}

/** How many bits below the sample are unused. */
function unusedBits({ bits, highBit, allocated }: Header): number {
  return highBit >= bits && highBit < allocated ? highBit + 1 - bits : 0;
}

/** Shift values to the lowest bits; what lies above the bits in use is the sign or nothing. */
function shifted(raw: Uint8Array | Uint16Array, header: Header, unused: number): Stored["values"] {
  const { bits, allocated, signed } = header;
  if (header.samples === 3 || (bits === allocated && !signed)) return raw;
  const above = 32 - bits - unused;
  if (signed) return Int16Array.from(raw, (value) => (value << above) >> (above + unused));
  const values = raw instanceof Uint8Array ? new Uint8Array(raw.length) : new Uint16Array(raw.length);
  for (let place = 0; place < raw.length; place++) values[place] = (raw[place] << above) >>> (above + unused);
  return values;
}

function uncompressed(data: DataSet, element: Element, header: Header): Uint8Array | Uint16Array {
  const { rows, columns, samples, allocated, planar } = header;
  const count = rows * columns * samples;
  const subsampled = header.photometric === "YBR_FULL_422";
  const length = subsampled ? rows * columns * 2 : (count * allocated) / 8;
  const bytes = data.byteArray.slice(element.dataOffset, element.dataOffset + length) as Uint8Array;
  if (element.length < length || bytes.length < length) throw new Unreadable("its pixel data is cut short");
  if (subsampled) return from422(bytes, count);
  if (allocated === 16) return words(bytes, header.syntax !== BIG_ENDIAN);
  return samples === 3 && planar ? interleaved(bytes) : bytes;
}

function words(bytes: Uint8Array, little: boolean): Uint16Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, place) => view.getUint16(2 * place, little));
}

function interleaved(planes: Uint8Array): Uint8Array {
  const count = planes.length / 3;
  return Uint8Array.from(planes, (_, place) => planes[(place % 3) * count + Math.floor(place / 3)]);
}

/** Repeat the colours that two pixels share: Y Y Cb Cr. */
function from422(bytes: Uint8Array, count: number): Uint8Array {
  const values = new Uint8Array(count);
  for (let from = 0, to = 0; to < count; from += 4, to += 6) {
    const [first, second, blue, red] = bytes.subarray(from, from + 4);
    values.set([first, blue, red, second, blue, red], to);
  }
  return values;
}

async function lossyJpeg(stream: Uint8Array, header: Header): Promise<Uint8Array> {
  const frame = frameOf(stream);
  if (frame.width !== header.columns || frame.height !== header.rows || frame.components !== header.samples) {
    throw new Unreadable("the compressed image is broken, or its size differs from the header's");
  }
  refuseUnreadable(frame, stream);
  return (await pixelsOf(stream, frame)).samples as Uint8Array;
}

/** Decode RLE: a segment for each byte of each sample, the highest byte first. */
async function runLengths(stream: Uint8Array, header: Header): Promise<Uint8Array | Uint16Array> {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const { rows, columns, samples, allocated } = header;
  const [count, depth] = [rows * columns, allocated / 8];
  const segments = view.getUint32(0, true);
  if (segments !== samples * depth) throw new Error("another number of segments");
  const values = depth === 2 ? new Uint16Array(count * samples) : new Uint8Array(count * samples);
  for (let segment = 0; segment < segments; segment++) {
    const start = view.getUint32(4 + 4 * segment, true);
    const end = segment + 1 < segments ? view.getUint32(8 + 4 * segment, true) : stream.length;
    const plane = unrolled(stream.subarray(start, end), count);
    const [sample, shift] = [Math.floor(segment / depth), 8 * (depth - 1 - (segment % depth))];
    for (let place = 0; place < count; place++) values[place * samples + sample] |= plane[place] << shift;
  }
  return values;
}

/** Undo PackBits. */
function unrolled(packed: Uint8Array, count: number): Uint8Array {
  const values = new Uint8Array(count);
  let to = 0;
  for (let from = 0; from < packed.length && to < count; ) {
    const head = packed[from++];
    if (head < 128) {
      const run = packed.subarray(from, Math.min(from + head + 1, from + count - to));
      values.set(run, to);
      to += run.length;
      from += head + 1;
    } else if (head > 128) {
      values.fill(packed[from++], to, (to += 257 - head));
    }
  }
  if (to < count) throw new Error("too few pixels");
  return values;
}
