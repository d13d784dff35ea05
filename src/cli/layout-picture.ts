/**
 * A picture of a sparse attention layout: one panel for each different head, queries downwards, keys to
 * the right. What a causal model hides is pale; what the first panel does not have is of another colour.
 */
import { px, svgDocument, text } from '../monitor/svg.ts';
import type { BlockLayout } from '../strategies/sparse-attention/block-layout.ts';
import { drawText, glyphAdvance } from './pixel-font.ts';
import { encodePng } from './png.ts';

/** What a mark stands for; see `legend`. */
type Role = 'shared' | 'sharedFuture' | 'own' | 'ownFuture' | 'frame' | 'ink';

interface Mark {
  role: Role;
  x: number;
  y: number;
  width: number;
  height: number;
}

interface Label {
  text: string;
  x: number;
  /** Of the top of the letters. */
  y: number;
}

interface Picture {
  title: string;
  width: number;
  height: number;
  marks: Mark[];
  labels: Label[];
}

const panelSize = 340;
const largestCell = 20;
const gap = 28;
const labelHeight = 18;
const lettersHeight = 10;
const mostColumns = 4;

const legend: [Role, string][] = [
  ['shared', 'computed'],
  ['sharedFuture', 'computed, hidden in a causal model'],
  ['own', 'computed, not in the first panel'],
];

export function layoutSvg(layout: BlockLayout, title: string): string {
  const { width, height, marks, labels } = drawLayout(layout, title);
  return svgDocument(width, height, title, [
    ...marks.map(({ role, x, y, width: w, height: h }) => {
      const box = `x="${px(x)}" y="${px(y)}" width="${px(w)}" height="${px(h)}"`;
      return `<rect ${box} ${svgStyles[role]}/>`;
    }),
    ...labels.map((label) => text(label.x, label.y + lettersHeight, label.text)),
  ]);
}

const svgStyles: Record<Role, string> = {
  shared: 'class="first" style="stroke: none"',
  sharedFuture: 'class="first" style="stroke: none; fill-opacity: 0.3"',
  own: 'class="second" style="stroke: none"',
  ownFuture: 'class="second" style="stroke: none; fill-opacity: 0.35"',
  frame: 'class="grid" style="fill: none"',
  ink: 'class="ink"',
};

export function layoutPng(layout: BlockLayout, title: string): Buffer {
  const { width, height, marks, labels } = drawLayout(layout, title);
  const roles = Object.keys(colours) as (keyof typeof colours)[];
  const pixels = new Uint8Array(width * height);
  const fill = (role: Role, x: number, y: number, w: number, h: number) => {
    for (let row = y; row < y + h; row++)
      pixels.fill(roles.indexOf(role), row * width + x, row * width + x + w);
  };
  for (const { role, x, y, width: w, height: h } of marks) {
    if (role !== 'frame') {
      fill(role, x, y, w, h);
      continue;
    }
    for (const [left, top, wide, high] of [
      [x, y, w, 1],
      [x, y + h - 1, w, 1],
      [x, y, 1, h],
      [x + w - 1, y, 1, h],
    ] as const)
      fill(role, left, top, wide, high);
  }
  for (const label of labels) {
    drawText(label.text, label.x, label.y + 2, (x, y) => {
      if (x < width && y < height) fill('ink', x, y, 1, 1);
    });
  }
  return encodePng({ width, height, pixels, palette: roles.map((role) => colours[role]) });
}

/** The light theme of the SVG; pale is the colour at the same opacity on white. */
const colours: Record<'ground' | Role, [number, number, number]> = {
  ground: [255, 255, 255],
  shared: [37, 99, 201],
  sharedFuture: [190, 208, 239],
  own: [194, 87, 12],
  ownFuture: [234, 196, 170],
  frame: [216, 222, 228],
  ink: [31, 35, 40],
};

function drawLayout(layout: BlockLayout, title: string): Picture {
  const { bitmaps, indices } = layout.distinct();
  const cell = Math.max(1, Math.min(largestCell, Math.floor(panelSize / layout.blocks)));
  const side = cell * layout.blocks;
  const columns = Math.min(mostColumns, bitmaps.length);
  const rows = Math.ceil(bitmaps.length / columns);
  const left = (panel: number) => gap + (panel % columns) * (side + gap);
  const top = (panel: number) =>
    gap + labelHeight + Math.floor(panel / columns) * (side + labelHeight + gap) + labelHeight;
  const marks: Mark[] = [];
  const labels: Label[] = [{ text: title, x: gap, y: gap - 10 }];
  for (const [panel, bitmap] of bitmaps.entries()) {
    const [x, y] = [left(panel), top(panel)];
    const heads = indices.flatMap((index, head) => (index === panel ? [head] : []));
    labels.push({ text: headText(heads), x, y: y - labelHeight });
    marks.push({ role: 'frame', x: x - 1, y: y - 1, width: side + 2, height: side + 2 });
    for (const run of runs(bitmap, bitmaps[0]!, layout.blocks)) {
      marks.push({
        role: run.role,
        x: x + run.column * cell,
        y: y + run.row * cell,
        width: run.length * cell,
        height: cell,
      });
    }
  }
  const legendTop = gap + labelHeight + rows * (side + labelHeight + gap);
  const shown = bitmaps.length > 1 ? legend : legend.slice(0, 2);
  for (const [line, [role, meaning]] of shown.entries()) {
    const y = legendTop + line * labelHeight;
    marks.push({ role, x: gap, y, width: lettersHeight, height: lettersHeight });
    labels.push({ text: meaning, x: gap + 18, y });
  }
  // Letters of an SVG are about as wide as those of the pixel font.
  const widest = Math.max(...labels.map((label) => label.x + label.text.length * glyphAdvance));
  return {
    title,
    width: Math.max(gap + columns * (side + gap), widest + gap),
    height: legendTop + shown.length * labelHeight + gap - labelHeight / 2,
    marks,
    labels,
  };
}

/** Neighbouring blocks of one row with one role. */
function* runs(bitmap: Uint8Array, first: Uint8Array, blocks: number) {
  for (let row = 0; row < blocks; row++) {
    const roleOf = (column: number): Role | null => {
      const at = row * blocks + column;
      if (bitmap[at] === 0) return null;
      if (column > row) return first[at] === 1 ? 'sharedFuture' : 'ownFuture';
      return first[at] === 1 ? 'shared' : 'own';
    };
    for (let start = 0; start < blocks; ) {
      const role = roleOf(start);
      let end = start + 1;
      while (end < blocks && roleOf(end) === role) end += 1;
      if (role !== null) yield { role, row, column: start, length: end - start };
      start = end;
    }
  }
}

/** "head 3", "heads 0-3, 6". */
function headText(heads: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const head of heads) {
    const last = ranges.at(-1);
    if (last?.[1] === head - 1) last[1] = head;
    else ranges.push([head, head]);
  }
  const parts = ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`));
  return `${heads.length === 1 ? 'head' : 'heads'} ${parts.join(', ')}`;
}
