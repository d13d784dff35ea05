/** What a check has found, in words. */
import { busBandwidth, type CheckReport, type Link, type Probe } from '../launcher/index.ts';
import { formatBytes } from '../monitor/units.ts';

/** Three digits of bits a second: 94.1 Mbit/s. */
export function formatRate(bytesPerSecond: number): string {
  const bits = Number((bytesPerSecond * 8).toPrecision(3));
  if (bits === 0) return '0 bit/s';
  const units = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'];
  const power = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log10(bits) / 3)));
  return `${Number((bits / 1000 ** power).toPrecision(3))} ${units[power]}`;
}

/** The lines of a report, the verdict last. */
export function checkLines(report: CheckReport): string[] {
  return [
    ...lostLines(report),
    ...sweepLines(report),
    ...runLines(report),
    ...faultLines(report),
    verdict(report),
  ];
}

function lostLines({ names, lost }: CheckReport): string[] {
  return lost.map(({ member, kind, evidence }) => {
    const what = { unreachable: 'cannot be reached', died: 'has died', stopped: 'stands still' };
    const state =
      kind === 'cut off' ? 'is cut off' : kind === 'other version' ? 'differs' : what[kind];
    return `${names[member]} ${state}: ${evidence}`;
  });
}

function sweepLines({ sweep, swept, expected, expectedFrom, reached }: CheckReport): string[] {
  if (swept.length < 2) return ['fewer than two are left: nothing to measure'];
  const heading = `all-reduce over ${swept.length}:`;
  if (sweep.error !== null) return [`${heading} ${sweep.error}`];
  const from = expectedFrom === 'given' ? 'given' : "the median of everybody's best pair";
  const against =
    expected === null
      ? []
      : [
          `reached ${formatRate(reached)}, expected ${formatRate(expected)} (${from}): ${Math.round((100 * reached) / expected)}%`,
        ];
  return [heading, ...readingLines(sweep, swept.length), ...against];
}

function runLines({ run, swept, reached, leastShare }: CheckReport): string[] {
  if (run === null) return [];
  const heading = `all-reduce of a run over ${swept.length}:`;
  if (run.sweep.error !== null) return [`${heading} ${run.sweep.error}`];
  const share = Math.round((100 * run.reached) / reached);
  return [
    heading,
    ...readingLines(run.sweep, swept.length),
    `reached ${formatRate(run.reached)}: ${share}% of what the check reached`,
    ...(run.isSlow
      ? [
          `MPI is slow, and not the machines or links: see "Several machines" in launcher.md (slow is below ${Math.round(leastShare * 100)}%)`,
        ]
      : []),
  ];
}

function readingLines({ readings }: Probe, members: number): string[] {
  return readings.map((reading) => {
    const time = `${(reading.seconds * 1000).toPrecision(3)} ms`;
    const rate = formatRate(busBandwidth(reading, members));
    return `  ${formatBytes(reading.bytes).padStart(8)}  ${time.padStart(9)}  ${rate.padStart(11)}`;
  });
}

function faultLines({
  members,
  links,
  names,
  expected,
  leastShare,
  unexplained,
  expectedFrom,
  sweep,
}: CheckReport): string[] {
  const shareOf = (bandwidth: number) =>
    expected === null ? '' : `, ${Math.round((100 * bandwidth) / expected)}% of what is expected`;
  const carries = ({ bandwidth, error }: Link) =>
    bandwidth > 0 ? formatRate(bandwidth) : `nothing (${error})`;
  const slow = members.flatMap(({ member, slow, sound }) => {
    const best = Math.max(...slow.map(({ bandwidth }) => bandwidth));
    return [
      best > 0
        ? `${names[member]} is slow: ${formatRate(best)} at best${shareOf(best)}`
        : `${names[member]} does not come through:`,
      ...slow.map((link) => `  to ${names[link.a === member ? link.b : link.a]}: ${carries(link)}`),
      ...(sound.length > 0 ? [`  the rest of its links is sound: ${range(sound)}`] : []),
    ];
  });
  const between = links.flatMap((link) => [
    `the link between ${names[link.a]} and ${names[link.b]} is slow: ${carries(link)}${shareOf(link.bandwidth)}`,
    link.beside.length > 0
      ? `  the other links of both that were measured are sound: ${range(link.beside)}`
      : '  there is no other link to tell which end it is',
  ]);
  if (sweep.error !== null && slow.length + between.length === 0)
    return ['no host or link is to blame by itself: it fails where all take part'];
  const nobody =
    expectedFrom === 'given'
      ? 'no host or link is slower than the others: the whole network is slower than expected'
      : 'no host or link is slower than the others: together they share something that one pair does not fill (a switch, or processors)';
  const floor = `(slow is below ${Math.round(leastShare * 100)}%)`;
  return [...slow, ...between, ...(unexplained ? [`${nobody} ${floor}`] : [])];
}

function range(links: readonly Link[]): string {
  const rates = links.map(({ bandwidth }) => bandwidth);
  const [least, most] = [Math.min(...rates), Math.max(...rates)].map(formatRate);
  return least === most ? least! : `${least} to ${most}`;
}

function verdict({ healthy }: CheckReport): string {
  return healthy ? 'healthy' : 'not healthy';
}
