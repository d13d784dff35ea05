/** What every rank's queues did over a few steps, as an SVG: one row per rank and queue. */
import type { WorkRecord } from '../native/contract.ts';
import type { RankTrace } from './perfetto.ts';
import { escapeText, linearScale, px, svgDocument, text, ticks } from './svg.ts';

const WIDTH = 960;
const ROW = 22;
const GAP = 12;
const plot = { left: 112, right: WIDTH - 20, top: 58 };
const queues: { queue: WorkRecord['queue']; role: string }[] = [
  { queue: 'compute', role: 'first' },
  { queue: 'comm', role: 'second' },
  { queue: 'io', role: 'third' },
];
/** Narrower bars hold no readable name. */
const MIN_LABEL_WIDTH = 40;

/** Rows without works are left out; the name and length of a work show when the pointer rests on it. */
export function renderTimeline(traces: readonly RankTrace[], title = 'Timeline'): string {
  const all = traces.flatMap(({ records }) => records);
  const start = all.reduce(
    (least, { startNs }) => Math.min(least, startNs),
    Number.POSITIVE_INFINITY,
  );
  const end = all.reduce((most, { endNs }) => Math.max(most, endNs), Number.NEGATIVE_INFINITY);
  if (all.length === 0) {
    return svgDocument(WIDTH, 120, title, [
      text(WIDTH / 2, 60, 'no works were recorded', { anchor: 'middle', role: 'soft' }),
    ]);
  }
  const milliseconds = (end - start) / 1e6;
  const x = linearScale([0, milliseconds], [plot.left, plot.right]);
  const rows = traces.flatMap(({ rank, records }) =>
    queues
      .map(({ queue, role }) => ({
        label: `rank ${rank} ${queue}`,
        rank,
        role,
        works: records.filter((record) => record.queue === queue),
      }))
      .filter(({ works }) => works.length > 0),
  );
  let y = plot.top;
  const body: string[] = [];
  rows.forEach((row, index) => {
    if (index > 0 && rows[index - 1]!.rank !== row.rank) y += GAP;
    body.push(text(plot.left - 10, y + 15, row.label, { anchor: 'end', role: 'soft' }));
    for (const work of row.works) body.push(bar(work, row.role, y));
    y += ROW;
  });
  const bottom = y + 6;
  const axis = ticks([0, milliseconds], 8).flatMap((ms) => [
    `<line x1="${px(x(ms))}" x2="${px(x(ms))}" y1="${plot.top - 6}" y2="${bottom}" class="grid"/>`,
    text(x(ms), bottom + 16, String(ms), { anchor: 'middle', role: 'soft', size: 11 }),
  ]);
  return svgDocument(WIDTH, bottom + 44, title, [
    text(20, 28, title, { size: 16 }),
    ...axis,
    text((plot.left + plot.right) / 2, bottom + 36, 'milliseconds', {
      anchor: 'middle',
      role: 'soft',
    }),
    ...body,
  ]);

  function bar({ name, startNs, endNs }: WorkRecord, role: string, top: number): string {
    const left = x((startNs - start) / 1e6);
    const width = Math.max(0.5, x((endNs - start) / 1e6) - left);
    const tip = escapeText(`${name}, ${((endNs - startNs) / 1e6).toFixed(3)} ms`);
    const rect = `<rect x="${px(left)}" y="${top}" width="${px(width)}" height="${ROW - 4}" rx="2" class="${role}" fill-opacity="0.35" stroke-width="0.7"><title>${tip}</title></rect>`;
    // About 6 pixels a letter at this size; a name that does not fit is cut.
    const letters = Math.floor((width - 6) / 6);
    if (width < MIN_LABEL_WIDTH) return rect;
    return `${rect}${text(left + 4, top + 13, name.length > letters ? `${name.slice(0, letters - 1)}…` : name, { size: 10 })}`;
  }
}
