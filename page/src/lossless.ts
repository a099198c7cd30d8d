/** Lossless JPEG of one sample, as DICOM has it. */

import { Decoder } from "jpeg-lossless-decoder-js";

import type { Header } from "./dicom";
import { Unreadable } from "./film";
import { frameOf } from "./jpeg";

export async function losslessJpeg(stream: Uint8Array, header: Header): Promise<Uint8Array | Uint16Array> {
  const frame = frameOf(stream);
  if (frame.code !== 0xc3) throw new Unreadable("the compressed image is broken, or its form differs from the header's");
  if (frame.width !== header.columns || frame.height !== header.rows || frame.components !== header.samples) {
    throw new Unreadable("the compressed image is broken, or its size differs from the header's");
  }
  if (header.samples !== 1) throw new Unreadable("lossless JPEG in colour is not read here, but by the command line");
  const bytes = new Decoder().decompress(stream.buffer as ArrayBuffer, stream.byteOffset, stream.byteLength);
  return frame.bits > 8 ? new Uint16Array(bytes) : new Uint8Array(bytes);
}
