/**
 * A picture of a sparse attention layout: one panel for each different head, queries downwards, keys to
 * the right. What a causal model hides is pale; what the first panel does not have is of another colour.
 */
import type { BlockLayout } from '../strategies/sparse-attention/block-layout.ts';
import {
  type Label,
  lettersHeight,
  type Look,
  type Mark,
  type Picture,
  picturePng,
  pictureSvg,
  textWidth,
} from './picture.ts';

/** What a mark stands for; see `legend`. */
type Role = 'shared' | 'sharedFuture' | 'own' | 'ownFuture' | 'frame';

const panelSize = 340;
const largestCell = 20;
const gap = 28;
const labelHeight = 18;
const mostColumns = 4;

const legend: [Role, string][] = [
  ['shared', 'computed'],
  ['sharedFuture', 'computed, hidden in a causal model'],
  ['own', 'computed, not in the first panel'],
];

const looks: Record<Role, Look> = {
  shared: { svg: 'class="first" style="stroke: none"', rgb: [37, 99, 201] },
  sharedFuture: {
    svg: 'class="first" style="stroke: none; fill-opacity: 0.3"',
    rgb: [190, 208, 239],
  },
  own: { svg: 'class="second" style="stroke: none"', rgb: [194, 87, 12] },
  ownFuture: {
    svg: 'class="second" style="stroke: none; fill-opacity: 0.35"',
    rgb: [234, 196, 170],
  },
  frame: { svg: 'class="grid" style="fill: none"', rgb: [216, 222, 228], isFrame: true },
};

export function layoutSvg(layout: BlockLayout, title: string): string {
  return pictureSvg(drawLayout(layout, title), looks);
}

export function layoutPng(layout: BlockLayout, title: string): Buffer {
  return picturePng(drawLayout(layout, title), looks);
}

function drawLayout(layout: BlockLayout, title: string): Picture<Role> {
  const { bitmaps, indices } = layout.distinct();
  const cell = Math.max(1, Math.min(largestCell, Math.floor(panelSize / layout.blocks)));
  const side = cell * layout.blocks;
  const columns = Math.min(mostColumns, bitmaps.length);
  const rows = Math.ceil(bitmaps.length / columns);
  const left = (panel: number) => gap + (panel % columns) * (side + gap);
  const top = (panel: number) =>
    gap + labelHeight + Math.floor(panel / columns) * (side + labelHeight + gap) + labelHeight;
  const marks: Mark<Role>[] = [];
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
  const widest = Math.max(...labels.map((label) => label.x + textWidth(label.text)));
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
