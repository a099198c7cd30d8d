/** libjpeg-turbo, CharLS and OpenJPEG in WebAssembly, each unpacked when it is first needed. */

import charls from "@cornerstonejs/codec-charls/decodewasmjs";
import turbo from "@cornerstonejs/codec-libjpeg-turbo-8bit/decodewasmjs";
import openjpeg from "@cornerstonejs/codec-openjpeg/decodewasmjs";

import { embedded } from "./embedded";

/** What Emscripten's modules of these codecs are. */
interface Decoder {
  getEncodedBuffer(length: number): Uint8Array;
  getDecodedBuffer(): Uint8Array;
  getFrameInfo(): { width: number; height: number; bitsPerSample: number; componentCount: number; isSigned: boolean };
  decode(): void;
  delete(): void;
}
type Module = Record<string, new () => Decoder>;
export type Factory = (options: { wasmBinary: Uint8Array; print: () => void; printErr: () => void }) => Promise<Module>;

/** Samples of 8 or 16 bits, interleaved. */
export interface Decoded {
  samples: Uint8Array | Uint16Array;
  channels: number;
  width: number;
  height: number;
}

/** A codec whose WebAssembly is a block of the page. */
class Codec {
  private binary: Uint8Array | null = null;
  private module: Promise<Module> | null = null;

  constructor(
    private readonly factory: Factory,
    private readonly block: string,
    private readonly decoder: string,
  ) {}

  async decode(stream: Uint8Array): Promise<Decoded> {
    this.binary ??= await embedded(this.block);
    const silent = () => {};
    this.module ??= this.factory({ wasmBinary: this.binary, print: silent, printErr: silent });
    const module = await this.module;
    try {
      return decodedBy(new module[this.decoder](), stream);
    } catch (error) {
      this.module = null; // after an error its memory may be in any state
      throw error;
    }
  }
}

function decodedBy(decoder: Decoder, stream: Uint8Array): Decoded {
  decoder.getEncodedBuffer(stream.length).set(stream);
  decoder.decode();
  const { width, height, bitsPerSample, componentCount: channels } = decoder.getFrameInfo();
  const bytes = decoder.getDecodedBuffer().slice();
  decoder.delete();
  const samples = bitsPerSample > 8 ? new Uint16Array(bytes.buffer) : bytes;
  if (samples.length !== width * height * channels) throw new Error("another number of samples");
  return { samples, channels, width, height };
}

const JPEG = new Codec(turbo, "jpeg", "JPEGDecoder");
const JPEG_LS = new Codec(charls, "jpegls", "JpegLSDecoder");
const JPEG_2000 = new Codec(openjpeg, "jpeg2000", "J2KDecoder");

export const decodeJpeg = (stream: Uint8Array): Promise<Decoded> => JPEG.decode(stream);
export const decodeJpegLs = (stream: Uint8Array): Promise<Decoded> => JPEG_LS.decode(stream);
export const decodeJpeg2000 = (stream: Uint8Array): Promise<Decoded> => JPEG_2000.decode(stream);
