declare module "@cornerstonejs/codec-libjpeg-turbo-8bit/decodewasmjs" {
  const factory: import("./codecs").Factory;
  export default factory;
}
declare module "@cornerstonejs/codec-charls/decodewasmjs" {
  const factory: import("./codecs").Factory;
  export default factory;
}
declare module "@cornerstonejs/codec-openjpeg/decodewasmjs" {
  const factory: import("./codecs").Factory;
  export default factory;
}
declare module "jpeg-lossless-decoder-js" {
  export class Decoder {
    /** Decode to 8 or 16 bits, by how many a sample has. */
    decompress(buffer: ArrayBuffer, offset?: number, length?: number): ArrayBuffer;
  }
}
