import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { describeEnd, firstCause, hintFor, nameRanks } from './failure.ts';
import { Terminal } from './output.ts';
import type { RankEnd } from './rank-process.ts';
import { reportLines, runStatus } from './report.ts';

const end = (rank: number, fields: Partial<RankEnd>): RankEnd => ({
  rank,
  pid: 100 + rank,
  exitCode: fields.signal ? null : 1,
  signal: null,
  error: null,
  tail: [],
  lost: null,
  ...fields,
});
const error = (code: string | null, message: string) => ({
  code,
  message,
  text: `Error: ${message}`,
});

const killed = end(1, { signal: 'SIGKILL' });
const fellOver = end(0, { error: error('COMM_PEER_DIED', 'rank 1 died') });
const own = end(2, { exitCode: 3, error: error('ENOENT', 'no data') });

describe('firstCause', () => {
  it('prefers who failed by itself over who met the consequences', () => {
    expect(firstCause([fellOver, killed])).toBe(killed);
    expect(firstCause([own, killed])).toBe(own);
    expect(firstCause([fellOver])).toBe(fellOver);
    expect(firstCause([])).toBeNull();
  });
});

describe('runStatus', () => {
  it.each([
    [{ stopped: null, failures: [] }, 0],
    [{ stopped: { kind: 'failure' }, failures: [fellOver, killed] }, 137],
    [{ stopped: { kind: 'failure' }, failures: [own, killed] }, 3],
    [{ stopped: { kind: 'signal', signal: 'SIGINT' }, failures: [own] }, 130],
    [{ stopped: { kind: 'hang', rank: 1, seconds: 5 }, failures: [] }, 1],
  ] as const)('%j gives %i', (outcome, status) => {
    expect(runStatus({ ...outcome, failures: [...outcome.failures] })).toBe(status);
  });
});

it('the report ends with the error of the rank that failed first, each error once', () => {
  const terminal = new Terminal(new Writable());
  const alike = end(3, { error: own.error });
  const other = end(4, { tail: ['something else', 'at the end'] });
  const failures = [fellOver, own, alike, other];
  expect(reportLines({ stopped: { kind: 'failure' }, failures }, 5, null, terminal)).toEqual([
    `deepspeed: ${describeEnd(other)} as well: at the end`,
    'deepspeed: ranks 2-3 failed with exit code 3; the other ranks were stopped',
    '[ranks 2-3] Error: no data',
  ]);
});

it('an error that all ranks share is told once for all of them', () => {
  const terminal = new Terminal(new Writable());
  const failures = [2, 0, 1].map((rank) => end(rank, { error: own.error }));
  expect(reportLines({ stopped: { kind: 'failure' }, failures }, 3, null, terminal)).toEqual([
    'deepspeed: ranks 0-2 failed with exit code 1',
    '[ranks 0-2] Error: no data',
  ]);
});

it('an exit code that all ranks share is told once; the loss of a rank is none', () => {
  const said = (...failures: RankEnd[]) => {
    const terminal = new Terminal(new Writable());
    return reportLines({ stopped: { kind: 'failure' }, failures }, 3, null, terminal).join(' ');
  };
  const left = [0, 1, 2].map((rank) => end(rank, { exitCode: 3 }));
  expect(said(...left)).toMatch(/^deepspeed: ranks 0-2 failed with exit code 3/);
  const lost = end(1, { lost: 'host b (rank 1) has died' });
  expect(said(lost, end(0, {}))).toContain('host b (rank 1) has died');
});

it('other errors come before it, each once; those that speak of a peer do not come at all', () => {
  const terminal = new Terminal(new Writable());
  const full = error('OUTPUT_NOT_WRITABLE', 'the disk is full');
  const failures = [
    end(1, { error: error('PEER_FAILED', 'rank 0: no data') }),
    own,
    end(0, { error: full }),
    end(4, { error: full }),
  ];
  expect(reportLines({ stopped: { kind: 'failure' }, failures }, 5, null, terminal)).toEqual([
    'deepspeed: ranks 0, 4 failed with exit code 1 as well: the disk is full',
    'deepspeed: rank 2 (pid 102) failed with exit code 3; the other ranks were stopped',
    '[rank 2] Error: no data',
  ]);
});

it('errors of ranks that a signal was to end are told before that', () => {
  const terminal = new Terminal(new Writable());
  const stopped = { kind: 'signal', signal: 'SIGINT' } as const;
  expect(reportLines({ stopped, failures: [own, fellOver] }, 3, null, terminal)).toEqual([
    '[rank 2] Error: no data',
    'deepspeed: stopped by SIGINT',
  ]);
});

it('names ranks by their runs', () => {
  expect([[3], [2, 0, 1], [0, 2], [5, 1, 2, 4]].map(nameRanks)).toEqual([
    'rank 3',
    'ranks 0-2',
    'ranks 0, 2',
    'ranks 1-2, 4-5',
  ]);
});

it('the report of a single rank is its error, and nothing where it has spoken itself', () => {
  const terminal = new Terminal(new Writable());
  const lines = (failure: RankEnd) =>
    reportLines({ stopped: { kind: 'failure' }, failures: [failure] }, 1, null, terminal);
  expect(lines(end(0, { error: own.error }))).toEqual(['Error: no data']);
  expect(lines(end(0, { exitCode: 7, tail: ['said already'] }))).toEqual([]);
  expect(lines(end(0, { signal: 'SIGSEGV' }))).toEqual([
    'deepspeed: rank 0 (pid 100) was killed by SIGSEGV',
    expect.stringContaining('native code crashed'),
  ]);
});

describe('hintFor', () => {
  it('speaks of memory only as far as the system says so', () => {
    expect(hintFor(killed, 2)).toContain('struck 2 time(s)');
    expect(hintFor(killed, 0)).toContain('was not at work');
    expect(hintFor(killed, null)).toContain('likely');
    expect(hintFor(own, null)).toBeNull();
  });
});
