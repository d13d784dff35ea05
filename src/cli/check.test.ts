/** What a check prints and draws, from reports as they come. */
import { inflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { CheckReport, Link } from '../launcher/index.ts';
import { check } from './check.ts';
import { checkPng, checkSvg } from './check-picture.ts';
import { checkLines, formatRate } from './check-text.ts';
import { estimate } from './estimate.ts';
import { layout } from './layout.ts';

const megabit = 1e6 / 8;
const link = (a: number, b: number, megabits: number): Link => ({
  a,
  b,
  bandwidth: megabits * megabit,
  error: megabits === 0 ? 'no connection after 5 s' : null,
});
const sound: CheckReport = {
  names: ['left', 'middle', 'right', 'far'],
  lost: [],
  members: [],
  links: [],
  unexplained: false,
  expected: 1000 * megabit,
  expectedFrom: 'pairs',
  leastShare: 0.5,
  sweep: { readings: [{ bytes: 1 << 20, seconds: 0.0168 }], error: null },
  swept: [0, 1, 2, 3],
  reached: 750 * megabit,
  run: null,
  pairs: [link(0, 1, 900), link(0, 2, 600), link(1, 2, 100), link(1, 3, 0)],
  healthy: true,
};

describe('rates', () => {
  it.each([
    [0, '0 bit/s'],
    [0.5, '4 bit/s'],
    [94.12 * megabit, '94.1 Mbit/s'],
    [999.9 * megabit, '1 Gbit/s'],
    [1e9, '8 Gbit/s'],
    [2.5e12, '20 Tbit/s'],
  ])('%d bytes a second are %s', (bytes, text) => expect(formatRate(bytes)).toBe(text));
});

describe('the report', () => {
  const lines = (change: Partial<CheckReport>) => checkLines({ ...sound, ...change }).join('\n');

  it('has the sweep, what is expected, and a verdict', () => {
    expect(lines({})).toContain('all-reduce over 4:\n      1 MB    16.8 ms   749 Mbit/s');
    expect(lines({})).toContain('reached 750 Mbit/s, expected 1 Gbit/s');
    expect(lines({})).toMatch(/: 75%\nhealthy$/);
  });

  it('has the all-reduce of a run, where it was asked for', () => {
    const sweep = { readings: [{ bytes: 1 << 20, seconds: 0.0336 }], error: null };
    const run = { sweep, reached: 375 * megabit, isSlow: false };
    expect(lines({ run })).toContain(
      'all-reduce of a run over 4:\n      1 MB    33.6 ms   374 Mbit/s\nreached 375 Mbit/s: 50% of what the check reached\nhealthy',
    );
    expect(lines({ run: { ...run, isSlow: true } })).toContain('MPI is slow, and not the machines');
    const failed = { sweep: { readings: [], error: 'no MPI' }, reached: 0, isSlow: true };
    expect(lines({ run: failed })).toContain('all-reduce of a run over 4: no MPI\n');
  });

  it('names slow machines with their links, and slow links with those beside them', () => {
    const slow = [link(0, 1, 90), link(1, 2, 100)];
    const text = lines({
      healthy: false,
      members: [{ member: 1, slow, sound: [link(1, 3, 800)] }],
      links: [{ ...link(0, 3, 0), beside: [link(2, 3, 900), link(0, 2, 950)] }],
    });
    expect(text).toContain('middle is slow: 100 Mbit/s at best, 10% of what is expected');
    expect(text).toContain('  to left: 90 Mbit/s\n  to right: 100 Mbit/s');
    expect(text).toContain('the rest of its links is sound: 800 Mbit/s');
    expect(text).toContain(
      'the link between left and far is slow: nothing (no connection after 5 s), 0% of what is expected',
    );
    expect(text).toContain('sound: 900 Mbit/s to 950 Mbit/s\nnot healthy');
  });

  it('says who is lost, and that nobody is to blame', () => {
    const text = lines({
      healthy: false,
      lost: [{ member: 2, kind: 'stopped', evidence: 'silent' }],
      unexplained: true,
      expectedFrom: 'given',
    });
    expect(text).toMatch(/^right stands still: silent\n/);
    expect(text).toContain('the whole network is slower than expected (slow is below 50%)');
  });

  it('is silent about rates where there are none', () => {
    expect(lines({ swept: [0], expected: null })).toBe(
      'fewer than two are left: nothing to measure\nhealthy',
    );
    expect(lines({ sweep: { readings: [], error: 'not done after 10 s' } })).toContain(
      'all-reduce over 4: not done after 10 s',
    );
  });
});

describe('the picture', () => {
  it('has a cell for each pair, both ways, in the colour of its share', () => {
    const svg = checkSvg({ ...sound, lost: [{ member: 2, kind: 'died', evidence: '' }] });
    const cells = svg.match(/<rect x="[^"]*" y="[^"]*" width="75" height="31" [^/]*/g)!;
    expect(cells).toHaveLength(4 * 3);
    const styled = (style: string) => cells.filter((cell) => cell.endsWith(style)).length;
    expect(styled('class="first" style="stroke: none; fill-opacity: 0.55"')).toBe(2); // left, middle
    expect(styled('class="second" style="stroke: none"')).toBe(6 + 2); // all of right; middle, far
    expect(styled('class="grid" style="fill: none"')).toBe(2); // left, far: not measured
    expect(svg).toContain('2: right');
  });

  it('is drawn for as many as there are, without numbers', () => {
    const names = Array.from({ length: 100 }, (_, index) => `worker-${index}`);
    const png = checkPng({ ...sound, names });
    const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
    expect(width).toBeGreaterThan(600);
    const data = png.subarray(png.indexOf('IDAT') + 4);
    expect(inflateSync(data).length).toBe(height * (width + 1));
  });
});

describe('the command line', () => {
  it.each([
    [['--expect', '0'], '--expect got "0", expected a number above 0'],
    [['--expect', 'fast'], '--expect got "fast"'],
    [['--least_share', '1.5'], 'expected a number above 0, at most 1'],
    [['--out', 'a.gif'], 'expected a .png or .svg file'],
    [['--include', 'a'], '--include needs a hostfile'],
    [['--launcher_args', '--x'], '--launcher_args needs a hostfile'],
    [['--launcher', 'pdsh'], 'pdsh is not available yet'],
    [['train.ts'], 'too many arguments'],
    [['--num_procs', '1'], '1 rank on this machine: nothing to check'],
    [['--out', 'missing-folder/a.svg'], 'missing-folder/a.svg cannot be written'],
  ])('%j is refused', async (argv, message) => {
    await expect(check(argv)).rejects.toThrow(message);
  });

  it.each([
    [check, ['--expect', '0'], 'check'],
    [check, ['--num_nodes', 'x'], 'check'],
    [check, ['--out', 'a.gif'], 'check'],
    [layout, ['--heads', 'x'], 'layout'],
    [estimate, ['--num_procs', 'x'], 'estimate'],
  ] as const)('of a subcommand has its own help', async (command, argv, name) => {
    await expect(command([...argv])).rejects.toMatchObject({
      fix: `\`deepspeed-js ${name} --help\` lists the flags.`,
    });
  });
});
