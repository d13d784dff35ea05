import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { claimOutput } from './output-claim.ts';
import { runRanks } from './testing/run-ranks.ts';
import type { TurnsResult, TurnsTask } from './testing/turns.fixture.ts';
import { Turns } from './turns.ts';

const fixture = new URL('testing/turns.fixture.ts', import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-turns-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('Turns', () => {
  /** A call that notes its begin and its end, and gives others room in between. */
  const noted = (notes: string[], name: string, inside?: () => Promise<unknown>) => async () => {
    notes.push(`${name} begins`);
    for (let i = 0; i < 5; i += 1) await new Promise(setImmediate);
    await inside?.();
    notes.push(`${name} ends`);
    return name;
  };
  const inOrder = (...names: string[]) =>
    names.flatMap((name) => [`${name} begins`, `${name} ends`]);

  it('come in the order of the calls, whichever is awaited', async () => {
    const turns = new Turns();
    const notes: string[] = [];
    const calls = ['a', 'b', 'c'].map((name) => turns.take(noted(notes, name)));
    expect(await Promise.all(calls.reverse())).toEqual(['c', 'b', 'a']);
    expect(notes).toEqual(inOrder('a', 'b', 'c'));
  });

  it('within one: at once, and one after the other', async () => {
    const turns = new Turns();
    const notes: string[] = [];
    const within = () =>
      Promise.all([turns.take(noted(notes, 'b')), turns.take(noted(notes, 'c'))]);
    const outer = turns.take(noted(notes, 'a', within));
    const next = turns.take(noted(notes, 'd'));
    await Promise.all([outer, next]);
    expect(notes).toEqual(['a begins', ...inOrder('b', 'c'), 'a ends', ...inOrder('d')]);
  });

  it('go on after one that failed', async () => {
    const turns = new Turns();
    const failing = turns.take(() => Promise.reject(new Error('no')));
    const next = turns.take(async () => 'yes');
    await expect(failing).rejects.toThrow('no');
    expect(await next).toBe('yes');
  });

  it('of what outlives its call are those of the others', async () => {
    const turns = new Turns();
    const notes: string[] = [];
    let late!: Promise<unknown>;
    await turns.take(async () => {
      late = new Promise<void>((resolve) => setImmediate(resolve)).then(() =>
        turns.take(noted(notes, 'late')),
      );
    });
    const own = turns.take(noted(notes, 'own'));
    await Promise.all([late, own]);
    expect(notes).toEqual(inOrder('own', 'late'));
  });
});

it.each([0, 3])(
  'calls of a Trainer that are not awaited, stage %i: as if they were',
  async (stage) => {
    const play = (awaited: boolean) =>
      runRanks<TurnsTask, TurnsResult>(fixture, 2, {
        outputDir: join(folder, `${stage}-${awaited}`),
        stage,
        awaited,
      });
    const results = await play(false);
    expect(results).toHaveLength(2);
    expect(results).toEqual(await play(true));
    for (const { evaluations, steps } of results) {
      expect(evaluations.map(({ eval_samples }) => eval_samples)).toEqual([32, 16]);
      expect(steps).toEqual([2, 2]);
    }
  },
);

describe.runIf(process.platform === 'linux')('an output folder', () => {
  it('is claimed once, by whatever path, until it is given up', async () => {
    const link = join(folder, 'link');
    symlinkSync(folder, link);
    const giveUp = await claimOutput(folder);
    await expect(claimOutput(link)).rejects.toMatchObject({
      code: 'OUTPUT_IN_USE',
      message: `another training writes to ${link}`,
    });
    giveUp();
    (await claimOutput(link))();
  });
});
