/** How a photograph's file says that it is to be turned: Exif first, then XMP. */

const ORIENTATION = 0x0112;

/** Return 1 to 8 as in EXIF; 1 if neither says, or is corrupt. */
export function orientationOf(exif: Uint8Array | null, xmp: Uint8Array | null): number {
  return (exif && ofExif(exif)) ?? (xmp && ofXmp(xmp)) ?? 1;
}

function ofExif(exif: Uint8Array): number | null {
  const start = startsWith(exif, 0, "Exif\0\0") ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.byteLength - start);
  try {
    const order = view.getUint16(0);
    if (order !== 0x4949 && order !== 0x4d4d) return null;
    const little = order === 0x4949;
    const directory = view.getUint32(4, little);
    const count = view.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      const [tag, kind] = [view.getUint16(entry, little), view.getUint16(entry + 2, little)];
      const value = view.getUint16(entry + 8, little);
      view.getUint16(entry + 10, little); // an entry that is cut short counts for nothing
      if (tag === ORIENTATION && kind === 3) return value;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it ends too early
  }
  return null;
}

function ofXmp(xmp: Uint8Array): number | null {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder("latin1").decode(xmp));
  return found ? Number(found[1]) : null;
}

export function startsWith(bytes: Uint8Array, place: number, text: string): boolean {
  return [...text].every((character, index) => bytes[place + index] === character.charCodeAt(0));
}
