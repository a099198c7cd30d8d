/** Blocks of data within the page: gzipped bytes, written as text of windows-1252 (see `try_page.py`). */

const ESCAPE = 0x3d; // "=", before a byte that HTML would change, which is raised by 64
const HIGH = "\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f" +
  "\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178";

/** Return the bytes of the characters 0x80 to 0x9f of windows-1252; all others are their own. */
const BYTES = new Map(Array.from(HIGH, (character, place) => [character.charCodeAt(0), 0x80 + place]));

/** Read a block, and remove it from the page, since it is large. */
export async function embedded(id: string): Promise<Uint8Array<ArrayBuffer>> {
  const block = document.getElementById(id);
  if (!block) throw new Error(`the page has no ${id}: it is damaged`);
  const text = block.textContent ?? "";
  block.remove();
  return gunzipped(bytesOf(text));
}

/** Read the JSON of a block. */
export function facts<Kind>(id: string): Kind {
  return JSON.parse(document.getElementById(id)?.textContent ?? "") as Kind;
}

export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (let place = 0; place < text.length; place++) {
    let code = text.charCodeAt(place);
    if (code === ESCAPE) code = text.charCodeAt(++place) - 64;
    bytes[length++] = code < 256 ? code : (BYTES.get(code) ?? 0);
  }
  return bytes.slice(0, length);
}

export async function gunzipped(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return inflated(bytes, "gzip", Infinity);
}

/** Inflate, but to no more than `most` bytes, and keep them only where they are needed. */
export async function inflated(
  bytes: Uint8Array<ArrayBuffer>,
  format: CompressionFormat,
  most: number,
  kept = true,
): Promise<Uint8Array<ArrayBuffer>> {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > most) {
      await reader.cancel();
      throw new RangeError(`it inflates to more than ${most.toLocaleString("en-US")} bytes`);
    }
    if (kept) parts.push(value);
  }
  const whole = new Uint8Array(kept ? length : 0);
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}
