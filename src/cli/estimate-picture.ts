/** The rows of an estimate as stacked bars, with a line where a rank's share of the memory ends. */
import { linearScale, px, svgDocument, text, ticks } from '../monitor/svg.ts';
import { formatBytes } from '../monitor/units.ts';
import type { EstimateRow } from '../trainer/estimate.ts';
import type { Footprint } from '../strategies/zero/footprint.ts';

const width = 820;
const barHeight = 26;
const rowHeight = 40;
const plot = { left: 240, right: width - 110, top: 84 };

/** What is drawn in one colour, from the left. */
const series: [label: string, role: string, bytes: (footprint: Footprint) => number][] = [
  ['parameters', 'first', ({ parameters, master }) => parameters + master],
  ['optimizer', 'second', ({ optimizer }) => optimizer],
  ['gradients', 'third', ({ gradients, communication }) => gradients + communication],
  ['windows', 'fourth', ({ window, io }) => window + io],
  ['activations', 'soft', ({ activations }) => activations],
];

export function rowLabel({ stage, gradientCheckpointing, onDisk }: EstimateRow): string {
  const disk = {
    nothing: '',
    states: ', states on disk',
    'states and parameters': ', all on disk',
  };
  return `stage ${stage}${disk[onDisk]}${gradientCheckpointing ? ', checkpointing' : ''}`;
}

/** @param share bytes that a rank may take */
export function estimateSvg(rows: readonly EstimateRow[], share: number, title: string): string {
  const drawn = rows.flatMap((row) => (row.bytes === null ? [] : [{ ...row, bytes: row.bytes }]));
  const most = Math.max(1, ...drawn.map(({ total }) => total));
  const x = linearScale([0, most], [plot.left, plot.right]);
  const bottom = plot.top + rowHeight * drawn.length;
  const gibi = 2 ** 30;
  // Ticks at round numbers of the unit that the labels show.
  const unit = most >= gibi ? gibi : 2 ** 20;
  const vertical = (at: number, style: string) =>
    `<line x1="${px(at)}" x2="${px(at)}" y1="${plot.top - 8}" y2="${bottom}" ${style}/>`;
  return svgDocument(width, bottom + 40, title, [
    text(20, 28, title, { size: 16 }),
    ...series.flatMap(([label, role], index) => [
      `<rect x="${20 + index * 130}" y="42" width="14" height="14" class="${role}"/>`,
      text(40 + index * 130, 54, label),
    ]),
    ...ticks([0, most / unit], 6).flatMap((value) => [
      vertical(x(value * unit), 'class="grid"'),
      text(x(value * unit), bottom + 18, formatBytes(value * unit), {
        anchor: 'middle',
        role: 'soft',
      }),
    ]),
    ...drawn.flatMap((row, index) => {
      const top = plot.top + index * rowHeight;
      let done = 0;
      const bars = series.flatMap(([, role, bytes]) => {
        const size = bytes(row.bytes);
        if (size === 0) return [];
        const box = `x="${px(x(done))}" y="${top}" width="${px(x(done + size) - x(done))}" height="${barHeight}"`;
        done += size;
        return [`<rect ${box} class="${role}"/>`];
      });
      const middle = top + barHeight / 2 + 4;
      return [
        text(plot.left - 10, middle, rowLabel(row), { anchor: 'end' }),
        ...bars,
        text(x(row.total) + 8, middle, formatBytes(row.total), { role: 'soft' }),
      ];
    }),
    ...(share <= most
      ? [
          vertical(x(share), 'class="axis" stroke-dasharray="5 4"'),
          text(x(share), plot.top - 12, `${formatBytes(share)} a rank`, {
            anchor: 'middle',
            role: 'soft',
            size: 11,
          }),
        ]
      : []),
  ]);
}
