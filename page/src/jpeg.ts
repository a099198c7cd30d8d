/** JPEG, decoded at its full size by libjpeg-turbo; the command line may decode a large one at a part of its size. */

import { type Decoded, decodeJpeg } from "./codecs";
import { type Film, luma, refuseLarge, Unreadable, upright } from "./film";
import { isColour } from "./flags";
import { orientationOf, startsWith } from "./orientation";

const MAX_SEGMENTS = 1000;
const MAX_SCANS = 64;
const MAX_SCANNED = 2_000_000_000; // pixels times scans
const XMP = "http://ns.adobe.com/xap/1.0/\0";

export interface Frame {
  code: number; // the marker, such as 0xc0 for baseline
  bits: number;
  width: number;
  height: number;
  components: number;
  orientation: number;
}

export async function readJpeg(bytes: Uint8Array<ArrayBuffer>): Promise<Film> {
  const frame = frameOf(bytes);
  refuseLarge(frame.width, frame.height);
  refuseUnreadable(frame, bytes);
  const decoded = await pixelsOf(bytes, frame);
  const { width, height, channels } = decoded;
  const samples = decoded.samples as Uint8Array;
  const flags = channels === 3 && isColour(samples, channels, width, height) ? ["colour"] : [];
  const pixels = channels === 3 ? greyOf(samples) : samples;
  return upright({ pixels, width, height, flags, guessed: false }, frame.orientation);
}

/** Decode to grey, or to RGB, of 8 bits. */
export async function pixelsOf(bytes: Uint8Array, frame: Frame): Promise<Decoded> {
  try {
    const decoded = await decodeJpeg(bytes);
    if (decoded.width === frame.width && decoded.height === frame.height) return decoded;
  } catch {} // its errors say nothing to a reader
  throw new Unreadable("a JPEG that is broken or cut short");
}

/** Turn RGB to grey. */
export function greyOf(colours: Uint8Array): Uint8Array {
  const pixels = new Uint8Array(colours.length / 3);
  for (let place = 0, start = 0; place < pixels.length; place++, start += 3) {
    pixels[place] = luma(colours[start], colours[start + 1], colours[start + 2]);
  }
  return pixels;
}

/** Throw for what libjpeg-turbo does not decode here, or decodes for minutes. */
export function refuseUnreadable(frame: Frame, bytes: Uint8Array): void {
  if (frame.code > 0xc8) throw new Unreadable("a JPEG whose arithmetic coding is not supported");
  if (![0xc0, 0xc1, 0xc2].includes(frame.code)) throw new Unreadable("a lossless or hierarchical JPEG: not read here");
  if (frame.bits !== 8) throw new Unreadable(`a JPEG of ${frame.bits} bits: not read here, but by the command line`);
  if (frame.components === 4) throw new Unreadable("a JPEG in CMYK: not read here, but by the command line");
  const scans = count(bytes, 0xff, 0xda);
  if (scans > MAX_SCANS) throw new Unreadable(`a JPEG of more than ${MAX_SCANS} scans`);
  if (scans > 1 && scans * frame.width * frame.height > MAX_SCANNED) {
    throw new Unreadable(`a JPEG of ${frame.width}x${frame.height} pixels in ${scans} scans, which take too long`);
  }
}

function count(bytes: Uint8Array, first: number, second: number): number {
  let found = 0;
  for (let place = bytes.indexOf(first); place >= 0; place = bytes.indexOf(first, place + 1)) {
    if (bytes[place + 1] === second) found++;
  }
  return found;
}

/** Return what the segments before the pixels say. */
export function frameOf(bytes: Uint8Array): Frame {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let [exif, xmp]: (Uint8Array | null)[] = [null, null];
  let frame: Omit<Frame, "orientation"> | null = null;
  let place = 2;
  for (let segment = 0; ; segment++) {
    if (segment === MAX_SEGMENTS) throw new Unreadable("a JPEG of more than 1,000 segments before its pixels");
    place = bytes.indexOf(0xff, place);
    while (place >= 0 && bytes[place] === 0xff) place++;
    if (place < 0 || place + 3 > bytes.length) throw new Unreadable("the file is truncated");
    const code = bytes[place++];
    if (code === 0x00 || code === 0x01 || (code >= 0xd0 && code <= 0xd9)) continue;
    if (code === 0xda) break;
    const end = place + view.getUint16(place);
    if (end > bytes.length) throw new Unreadable("the file is truncated");
    const content = bytes.subarray(place + 2, end);
    const isFrame = code >= 0xc0 && code <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(code);
    if (isFrame && content.length >= 6) {
      const [height, width] = [view.getUint16(place + 3), view.getUint16(place + 5)];
      frame ??= { code, bits: content[0], width, height, components: content[5] };
    }
    if (code === 0xe1 && startsWith(content, 0, "Exif\0\0")) exif ??= content;
    if (code === 0xe1 && startsWith(content, 0, XMP)) xmp = content;
    place = end;
  }
  if (!frame) throw new Unreadable("a JPEG without a size");
  return { ...frame, orientation: orientationOf(exif, xmp) };
}
