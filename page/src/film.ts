/** What every reader returns, and what it refuses. */

/** The file cannot be read; the message is a reason for its reader. */
export class Unreadable extends Error {}

/** A film as the model takes it, and what is known of its file. */
export interface Film {
  pixels: Uint8Array; // grey, 0 is black, row by row
  width: number;
  height: number;
  flags: string[]; // those of the file, see `flags.ts`
  guessed: boolean; // 16 bits, of which the brightest pixel alone says how many are used
}

export const MAX_PIXELS = 50_000_000; // half of what the command line reads: a browser's memory is smaller
export const MAX_SIDE = 20_000;

export function refuseLarge(width: number, height: number): void {
  const size = `${width}x${height} pixels`;
  if (width * height > MAX_PIXELS) {
    throw new Unreadable(`${size}, more than ${MAX_PIXELS.toLocaleString("en-US")}: use the command line`);
  }
  if (Math.max(width, height) > MAX_SIDE) {
    throw new Unreadable(`${size}, a side of more than ${MAX_SIDE.toLocaleString("en-US")}`);
  }
  if (!(width > 0 && height > 0)) throw new Unreadable("it has no pixels");
}

/** The brightness of a colour by ITU-R 601, to whole levels as Pillow rounds it. */
export function luma(red: number, green: number, blue: number): number {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

/** A level of which a share of `alpha` / 255 covers black, to whole levels as Pillow rounds it. */
export function overBlack(level: number, alpha: number): number {
  const product = level * alpha * 128 + 0x4000;
  return (((product >> 8) + product) >> 8) >> 7;
}

/** How many bits of 16 are used: as stated, unless the largest value contradicts it, or else as many as it has. */
export function bitsUsed(most: number, stated: number | null): number {
  const used = Math.min(Math.max(32 - Math.clz32(most), 8), 16);
  if (stated === null || used < stated - 1) return used;
  return used > stated ? 16 : stated;
}

/** Reduce values of so many bits to 8. */
export function narrowed(values: Uint16Array, bits: number): Uint8Array {
  const most = 2 ** bits - 1;
  const table = new Uint8Array(1 << 16);
  for (let value = 0; value < table.length; value++) {
    table[value] = Math.floor(Math.min(value, most) / (most / 255) + 0.5);
  }
  return Uint8Array.from(values, (value) => table[value]);
}

export function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let place = 0; place < values.length; place++) if (values[place] > most) most = values[place];
  return most;
}

/** Turn a film upright; `orientation` is EXIF's, 1 to 8. */
export function upright(film: Film, orientation: number): Film {
  if (orientation < 2 || orientation > 8) return film;
  const { pixels, width, height } = film;
  const swaps = orientation >= 5;
  const [across, down] = swaps ? [height, width] : [width, height];
  const turned = new Uint8Array(pixels.length);
  const flipX = [2, 3, 7, 8].includes(orientation);
  const flipY = [3, 4, 6, 7].includes(orientation);
  for (let y = 0; y < down; y++) {
    for (let x = 0; x < across; x++) {
      let [column, row] = swaps ? [y, x] : [x, y];
      if (flipX) column = width - 1 - column;
      if (flipY) row = height - 1 - row;
      turned[y * across + x] = pixels[row * width + column];
    }
  }
  return { ...film, pixels: turned, width: across, height: down };
}
