/** The pairs of a check as a map: how much each link carries, beside what is expected of it. */
import type { CheckReport } from '../launcher/index.ts';
import { formatRate } from './check-text.ts';
import {
  type Label,
  type Look,
  type Mark,
  type Picture,
  picturePng,
  pictureSvg,
  textWidth,
} from './picture.ts';

/** What a mark stands for; see `legend`. */
type Role = 'sound' | 'fair' | 'slow' | 'dead' | 'unknown' | 'frame';

const looks: Record<Role, Look> = {
  sound: { svg: 'class="first" style="stroke: none; fill-opacity: 0.55"', rgb: [135, 169, 225] },
  fair: { svg: 'class="first" style="stroke: none; fill-opacity: 0.2"', rgb: [211, 224, 244] },
  slow: { svg: 'class="second" style="stroke: none; fill-opacity: 0.55"', rgb: [221, 163, 124] },
  dead: { svg: 'class="second" style="stroke: none"', rgb: [194, 87, 12] },
  unknown: { svg: 'class="grid" style="fill: none"', rgb: [216, 222, 228], isFrame: true },
  frame: { svg: 'class="axis" style="fill: none"', rgb: [140, 149, 159], isFrame: true },
};

/** Cells with a number in them, as long as there are not more members. */
const mostNumbered = 12;
const numberedCell = { width: 76, height: 32 };
const gap = 20;
const line = 18;

export function checkSvg(report: CheckReport): string {
  return pictureSvg(drawPairs(report), looks);
}

export function checkPng(report: CheckReport): Buffer {
  return picturePng(drawPairs(report), looks);
}

function drawPairs(report: CheckReport): Picture<Role> {
  const { names, pairs, expected, leastShare, lost } = report;
  const isNumbered = names.length <= mostNumbered;
  const small = Math.max(4, Math.min(20, Math.floor(640 / names.length)));
  const cell = isNumbered ? numberedCell : { width: small, height: small };
  // Names by number above the columns: they may be long.
  const rowNames = names.map((name, member) => `${member}: ${name}`);
  const left = gap + Math.max(...rowNames.map(textWidth)) + 10;
  const top = gap + 2 * line + 10;
  const marks: Mark<Role>[] = [];
  const labels: Label[] = [{ text: titleOf(report), x: gap, y: gap - 6 }];
  const step = isNumbered ? 1 : Math.max(1, Math.ceil(line / cell.height));
  for (const [member, name] of rowNames.entries()) {
    if (member % step !== 0) continue;
    const column = left + member * cell.width + Math.max(0, Math.floor((cell.width - 8) / 2));
    labels.push({ text: String(member), x: column, y: top - line });
    const y = top + member * cell.height + Math.floor((cell.height - 12) / 2);
    labels.push({ text: name, x: gap, y });
  }
  const gone = new Set(lost.map(({ member }) => member));
  const roleOf = (bandwidth: number): Role => {
    if (bandwidth === 0) return 'dead';
    if (expected === null || bandwidth >= 0.8 * expected) return 'sound';
    return bandwidth >= leastShare * expected ? 'fair' : 'slow';
  };
  const known = new Map(
    pairs.flatMap(({ a, b, bandwidth }) => [
      [a * names.length + b, bandwidth],
      [b * names.length + a, bandwidth],
    ]),
  );
  for (let a = 0; a < names.length; a++)
    for (let b = 0; b < names.length; b++) {
      if (a === b) continue;
      const [x, y] = [left + b * cell.width, top + a * cell.height];
      const bandwidth = known.get(a * names.length + b);
      const role =
        gone.has(a) || gone.has(b)
          ? 'dead'
          : bandwidth === undefined
            ? 'unknown'
            : roleOf(bandwidth);
      marks.push({ role, x, y, width: cell.width - 1, height: cell.height - 1 });
      if (!isNumbered || bandwidth === undefined) continue;
      const [number, unit] = formatRate(bandwidth).split(' ');
      labels.push({ text: number!, x: x + 6, y: y + 2 }, { text: unit ?? '', x: x + 6, y: y + 15 });
    }
  const [width, height] = [names.length * cell.width, names.length * cell.height];
  marks.push({ role: 'frame', x: left - 1, y: top - 1, width: width + 1, height: height + 1 });
  const below = top + height + gap;
  const legend: [Role, string][] = [
    ['sound', 'at least 80% of what is expected'],
    ['fair', `at least ${Math.round(leastShare * 100)}%`],
    ['slow', 'slower'],
    ['dead', 'nothing came through, or a host is lost'],
    ['unknown', 'not measured'],
  ];
  for (const [index, [role, meaning]] of legend.entries()) {
    marks.push({ role, x: gap, y: below + index * line, width: 10, height: 10 });
    labels.push({ text: meaning, x: gap + 18, y: below + index * line });
  }
  const widest = Math.max(...labels.map((label) => label.x + textWidth(label.text)));
  return {
    title: titleOf(report),
    width: Math.max(left + width, widest) + gap,
    height: below + legend.length * line + gap,
    marks,
    labels,
  };
}

function titleOf({ names, expected, healthy }: CheckReport): string {
  const against = expected === null ? '' : `, expected ${formatRate(expected)}`;
  return `Pairs of ${names.length}${against}: ${healthy ? 'healthy' : 'not healthy'}`;
}
