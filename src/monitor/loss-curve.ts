/** Training and evaluation loss over steps, as an SVG. */
import { escapeText, linearScale, px, svgDocument, text, ticks } from './svg.ts';

export interface LossPoint {
  step: number;
  loss: number;
}

export interface LossCurve {
  train: readonly LossPoint[];
  evaluation?: readonly LossPoint[];
  title?: string;
  /** Of the loss: nats for likelihoods, none for other measures. */
  unit?: 'nats';
  /** Horizontal lines to compare with, e.g. the entropy of unigrams. */
  references?: readonly { label: string; loss: number }[];
}

const WIDTH = 760;
const HEIGHT = 420;
const plot = { left: 58, right: WIDTH - 24, top: 56, bottom: HEIGHT - 46 };
/** Steps that the smoothed line averages over, as a share of all; single batches are noisy. */
const SMOOTHING_SHARE = 0.03;
/** More points than pixels draw nothing new. */
const MAX_POINTS = 1500;

/** Non-finite losses are left out; an empty curve says so instead of drawing axes without numbers. */
export function renderLossCurve(curve: LossCurve): string {
  const title = curve.title ?? 'Loss';
  const train = curve.train.filter(({ loss }) => Number.isFinite(loss));
  const evaluation = (curve.evaluation ?? []).filter(({ loss }) => Number.isFinite(loss));
  const references = curve.references ?? [];
  const points = [...train, ...evaluation];
  if (points.length === 0) {
    return svgDocument(WIDTH, HEIGHT, title, [
      text(WIDTH / 2, HEIGHT / 2, 'no finite loss was recorded', {
        anchor: 'middle',
        role: 'soft',
      }),
    ]);
  }
  const steps = extent(
    points.map(({ step }) => step),
    0,
  );
  const losses = extent(
    [...points, ...references].map(({ loss }) => loss),
    0.05,
  );
  const x = linearScale(steps, [plot.left, plot.right]);
  const y = linearScale(losses, [plot.bottom, plot.top]);
  const place = ({ step, loss }: LossPoint) => `${px(x(step))},${px(y(loss))}`;
  const polyline = (series: readonly LossPoint[], attributes: string) =>
    series.length === 0
      ? []
      : [`<polyline points="${thin(series).map(place).join(' ')}" class="line ${attributes}"/>`];

  return svgDocument(WIDTH, HEIGHT, title, [
    text(plot.left, 28, title, { size: 16 }),
    ...legend(evaluation.length > 0),
    ...ticks(losses, 6).flatMap((loss) => [
      `<line x1="${plot.left}" x2="${plot.right}" y1="${px(y(loss))}" y2="${px(y(loss))}" class="grid"/>`,
      text(plot.left - 8, y(loss) + 4, String(loss), { anchor: 'end', role: 'soft' }),
    ]),
    ...ticks(steps, 8)
      .filter(Number.isInteger)
      .flatMap((step) => [
        `<line x1="${px(x(step))}" x2="${px(x(step))}" y1="${plot.bottom}" y2="${plot.bottom + 5}" class="axis"/>`,
        text(x(step), plot.bottom + 20, step.toLocaleString('en-US'), {
          anchor: 'middle',
          role: 'soft',
        }),
      ]),
    `<line x1="${plot.left}" x2="${plot.right}" y1="${plot.bottom}" y2="${plot.bottom}" class="axis"/>`,
    text((plot.left + plot.right) / 2, HEIGHT - 8, 'optimizer step', {
      anchor: 'middle',
      role: 'soft',
    }),
    ...(curve.unit === undefined
      ? []
      : [
          text(plot.left - 8, plot.top - 10, curve.unit, { anchor: 'end', role: 'soft', size: 11 }),
        ]),
    ...references.flatMap(({ label, loss }) => [
      `<line x1="${plot.left}" x2="${plot.right}" y1="${px(y(loss))}" y2="${px(y(loss))}" class="axis" stroke-dasharray="5 4"/>`,
      text(plot.right, y(loss) - 6, label, { anchor: 'end', role: 'soft', size: 11 }),
    ]),
    ...polyline(train, 'first" stroke-width="1" stroke-opacity="0.28'),
    ...polyline(smooth(train), 'first" stroke-width="2'),
    ...polyline(evaluation, 'second" stroke-width="2'),
    ...evaluation.map(
      (point) =>
        `<circle cx="${px(x(point.step))}" cy="${px(y(point.loss))}" r="3.5" class="second"><title>${escapeText(`step ${point.step}: ${point.loss.toFixed(4)}`)}</title></circle>`,
    ),
  ]);
}

function legend(hasEvaluation: boolean): string[] {
  const entries = [['first', 'training'], ...(hasEvaluation ? [['second', 'evaluation']] : [])];
  return entries.flatMap(([role, label], index) => {
    const left = plot.right - 100 * (entries.length - index);
    return [
      `<line x1="${left}" x2="${left + 18}" y1="24" y2="24" stroke-width="3" class="${role}"/>`,
      text(left + 24, 28, label!),
    ];
  });
}

/** Least and greatest, widened by a share of their distance; never empty. */
function extent(values: readonly number[], margin: number): [number, number] {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const pad = (high - low) * margin || (high === low ? 0.5 : 0);
  return [low - pad, high + pad];
}

/** Mean over a window centred on each step, narrower near both ends: it neither lags nor hangs at the start. */
function smooth(series: readonly LossPoint[]): LossPoint[] {
  const reach = Math.round((series.length * SMOOTHING_SHARE) / 2);
  const sums = [0];
  for (const { loss } of series) sums.push(sums.at(-1)! + loss);
  return series.map(({ step }, i) => {
    const half = Math.min(reach, i, series.length - 1 - i);
    return { step, loss: (sums[i + half + 1]! - sums[i - half]!) / (2 * half + 1) };
  });
}

function thin(series: readonly LossPoint[]): LossPoint[] {
  const stride = Math.ceil(series.length / MAX_POINTS);
  return series.filter((_, index) => index % stride === 0 || index === series.length - 1);
}
