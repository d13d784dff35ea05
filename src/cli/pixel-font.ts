/** Five by seven pixels for each capital, digit and mark: what a picture without a text engine needs. */

/** Rows from the top, each a digit of base 32; its highest bit is the leftmost pixel. */
const glyphs: Readonly<Record<string, string>> = {
  A: 'ehhvhhh',
  B: 'uhhuhhu',
  C: 'ehggghe',
  D: 'uhhhhhu',
  E: 'vgguggv',
  F: 'vgguggg',
  G: 'ehgnhhf',
  H: 'hhhvhhh',
  I: 'e44444e',
  J: '72222ic',
  K: 'hikokih',
  L: 'ggggggv',
  M: 'hrllhhh',
  N: 'hhpljhh',
  O: 'ehhhhhe',
  P: 'uhhuggg',
  Q: 'ehhhlid',
  R: 'uhhukih',
  S: 'fgge11u',
  T: 'v444444',
  U: 'hhhhhhe',
  V: 'hhhhha4',
  W: 'hhhllla',
  X: 'hha4ahh',
  Y: 'hhha444',
  Z: 'v1248gv',
  0: 'ehjlphe',
  1: '4c4444e',
  2: 'eh1248v',
  3: 'v2421he',
  4: '26aiv22',
  5: 'vgu11he',
  6: '68guhhe',
  7: 'v124888',
  8: 'ehhehhe',
  9: 'ehhf12c',
  '.': '00000cc',
  ',': '0000c48',
  '-': '000v000',
  '%': 'op248j3',
  ':': '0cc0cc0',
  '(': '2488842',
  ')': '8422248',
  '/': '11248gg',
};

const glyphWidth = 5;
const glyphHeight = 7;
/** Pixels from one character to the next. */
export const glyphAdvance = glyphWidth + 1;

/** Calls `set` for every inked pixel of a line whose top left corner is (x, y); unknown marks are blank. */
export function drawText(
  text: string,
  x: number,
  y: number,
  set: (x: number, y: number) => void,
): void {
  for (const [i, character] of [...text.toUpperCase()].entries()) {
    const rows = glyphs[character];
    if (rows === undefined) continue;
    for (let row = 0; row < glyphHeight; row++) {
      const bits = Number.parseInt(rows[row]!, 32);
      for (let column = 0; column < glyphWidth; column++) {
        if (bits & (1 << (glyphWidth - 1 - column))) set(x + i * glyphAdvance + column, y + row);
      }
    }
  }
}
