/**
 * The alphabet of byte-level BPE: each of the 256 bytes as one printable character (GPT-2's table).
 * Printable Latin-1 bytes stand for themselves; the others follow from U+0100 in byte order.
 */

const characters = makeAlphabet();
const bytesByCharacter = new Map(characters.map((character, byte) => [character, byte]));
const encoder = new TextEncoder();

/** The 256 characters, indexed by byte. */
export const byteAlphabet: readonly string[] = characters;

/** Text → its UTF-8 bytes written in the alphabet. */
export function toAlphabet(text: string): string {
  let result = '';
  for (const byte of encoder.encode(text)) result += characters[byte];
  return result;
}

/** The bytes that a token's characters stand for; undefined when one is not in the alphabet. */
export function fromAlphabet(token: string): number[] | undefined {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = bytesByCharacter.get(character);
    if (byte === undefined) return undefined;
    bytes.push(byte);
  }
  return bytes;
}

function makeAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCodePoint(printable ? byte : next++);
  });
}
