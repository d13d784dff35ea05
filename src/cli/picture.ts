/** Pictures of rectangles and short texts, as SVG and as PNG. */
import { px, svgDocument, text } from '../monitor/svg.ts';
import { drawText, glyphAdvance } from './pixel-font.ts';
import { encodePng } from './png.ts';

export interface Mark<Role> {
  role: Role;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Label {
  text: string;
  x: number;
  /** Of the top of the letters. */
  y: number;
}

/** All measures are whole pixels. */
export interface Picture<Role> {
  title: string;
  width: number;
  height: number;
  marks: Mark<Role>[];
  labels: Label[];
}

/** How the marks of one role look. */
export interface Look {
  /** Attributes of the SVG's element. */
  svg: string;
  /** The same in the light theme; pale is the colour at the same opacity on white. */
  rgb: readonly [number, number, number];
  /** Only the border is drawn. */
  isFrame?: boolean;
}

/** Of capitals and digits; letters of an SVG are about as wide as those of the pixel font. */
export const lettersHeight = 10;

export function textWidth(content: string): number {
  return content.length * glyphAdvance;
}

export function pictureSvg<Role extends string>(
  { width, height, title, marks, labels }: Picture<Role>,
  looks: Readonly<Record<Role, Look>>,
): string {
  return svgDocument(width, height, title, [
    ...marks.map(({ role, x, y, width: w, height: h }) => {
      const box = `x="${px(x)}" y="${px(y)}" width="${px(w)}" height="${px(h)}"`;
      return `<rect ${box} ${looks[role].svg}/>`;
    }),
    ...labels.map((label) => text(label.x, label.y + lettersHeight, label.text)),
  ]);
}

const ground = [255, 255, 255] as const;
const ink = [31, 35, 40] as const;

export function picturePng<Role extends string>(
  { width, height, marks, labels }: Picture<Role>,
  looks: Readonly<Record<Role, Look>>,
): Buffer {
  const roles = Object.keys(looks) as Role[];
  const inkIndex = roles.length + 1;
  const pixels = new Uint8Array(width * height);
  const fill = (colour: number, x: number, y: number, w: number, h: number) => {
    for (let row = y; row < y + h; row++) pixels.fill(colour, row * width + x, row * width + x + w);
  };
  for (const { role, x, y, width: w, height: h } of marks) {
    const colour = roles.indexOf(role) + 1;
    if (!looks[role].isFrame) {
      fill(colour, x, y, w, h);
      continue;
    }
    for (const [left, top, wide, high] of [
      [x, y, w, 1],
      [x, y + h - 1, w, 1],
      [x, y, 1, h],
      [x + w - 1, y, 1, h],
    ] as const)
      fill(colour, left, top, wide, high);
  }
  for (const label of labels) {
    drawText(label.text, label.x, label.y + 2, (x, y) => {
      if (x < width && y < height) fill(inkIndex, x, y, 1, 1);
    });
  }
  const palette = [ground, ...roles.map((role) => looks[role].rgb), ink];
  return encodePng({ width, height, pixels, palette });
}
