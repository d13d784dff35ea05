/** Ranks that do different things: an error that says so on each of them, and never a hang. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterAll, expect, it } from 'vitest';
import { attemptRanks } from '../../trainer/testing/run-ranks.ts';
import type { ApartTask } from './testing/apart.fixture.ts';

const fixture = new URL('./testing/apart.fixture.ts', import.meta.url);
const folder = mkdtempSync(`${tmpdir()}/deepspeed-js-`);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const errorsOf = async (scenario: ApartTask['scenario']) =>
  (await attemptRanks<ApartTask, void>(fixture, 2, { scenario, folder })).map(
    ({ error }) => error!,
  );

it('a checkpoint that one rank alone asks for names both operations, and leaves nothing', async () => {
  const errors = await errorsOf('save');
  for (const { code, message } of errors) {
    expect(code).toMatch(/^COMM_/);
    expect(message).toMatch(/rank [01]/);
  }
  expect(errors.map(({ code }) => code)).toContain('COMM_MISMATCH');
  expect(errors.map(({ message }) => message).join()).toMatch(
    /allGather.*allReduce|allReduce.*allGather/,
  );
  expect(readdirSync(folder)).toEqual([]);
});

it("a checkpoint in the middle of one rank's step is refused on all, with the ranks", async () => {
  for (const { code, message } of await errorsOf('save in accumulation')) {
    expect(code).toBe('ARGUMENTS_INVALID');
    expect(message).toMatch(/in the middle of step 1: .* 0 on rank 0, 1 on rank 1$/);
  }
  expect(readdirSync(folder)).toEqual([]);
});

it('a gradient of an earlier micro batch that is not finite is named on all ranks', async () => {
  for (const { code, message } of await errorsOf('earlier micro batch')) {
    expect(code).toBe('LOSS_NOT_FINITE');
    expect(message).toMatch(/not finite: w, in an earlier micro batch/);
  }
});

it('models that differ are told before anything is shared, with both ranks', async () => {
  for (const { code, message } of await errorsOf('models')) {
    expect(code).toBe('RANKS_DIFFER');
    expect(message).toMatch(/parameter 0 is w \[3\] on rank 0 and w \[4\] on rank 1/);
  }
});
