import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { claimOutput } from './output-claim.ts';
import { runRanks } from './testing/run-ranks.ts';
import type { TurnsResult, TurnsTask } from './testing/turns.fixture.ts';
import { tinySamples, tinyTrainer } from './testing/tiny-trainer.ts';
import { Turns } from './turns.ts';

const fixture = new URL('testing/turns.fixture.ts', import.meta.url);
const tiny = new URL('testing/tiny-trainer.ts', import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-turns-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A call that notes its begin and its end, and gives others room in between. */
const noted = (notes: string[], name: string, inside?: () => Promise<unknown>) => async () => {
  notes.push(`${name} begins`);
  for (let i = 0; i < 5; i += 1) await new Promise(setImmediate);
  await inside?.();
  notes.push(`${name} ends`);
  return name;
};
const inOrder = (...names: string[]) => names.flatMap((name) => [`${name} begins`, `${name} ends`]);
const silent = () => {};

describe('Turns', () => {
  it('come in the order of the calls, whichever is awaited', async () => {
    const turns = new Turns(silent);
    const notes: string[] = [];
    const calls = ['a', 'b', 'c'].map((name) => turns.take(name, noted(notes, name)));
    expect(await Promise.all(calls.reverse())).toEqual(['c', 'b', 'a']);
    expect(notes).toEqual(inOrder('a', 'b', 'c'));
  });

  it('within one: at once, and one after the other', async () => {
    const turns = new Turns(silent);
    const notes: string[] = [];
    const within = () =>
      Promise.all([turns.take('b', noted(notes, 'b')), turns.take('c', noted(notes, 'c'))]);
    const outer = turns.take('a', noted(notes, 'a', within));
    const next = turns.take('d', noted(notes, 'd'));
    await Promise.all([outer, next]);
    expect(notes).toEqual(['a begins', ...inOrder('b', 'c'), 'a ends', ...inOrder('d')]);
  });

  it('within one that does not wait for it: before the next one of the others', async () => {
    const turns = new Turns(silent);
    const notes: string[] = [];
    const outer = turns.take('a', async () => void turns.take('b', noted(notes, 'b')));
    const next = turns.take('c', noted(notes, 'c'));
    await Promise.all([outer, next]);
    expect(notes).toEqual(inOrder('b', 'c'));
  });

  it('go on after one that failed', async () => {
    const turns = new Turns(silent);
    const failing = turns.take('a', () => Promise.reject(new Error('no')));
    const next = turns.take('b', async () => 'yes');
    await expect(failing).rejects.toThrow('no');
    expect(await next).toBe('yes');
  });

  it('fail with the place of the call in the stack, once', async () => {
    const turns = new Turns(silent);
    const fails = async () => {
      await new Promise(setImmediate);
      throw new Error('the cause');
    };
    function ofTheScript() {
      return turns.take('outer', () => turns.take('inner', fails));
    }
    const error = await ofTheScript().catch((thrown: Error) => thrown);
    expect((error as Error).stack!.match(/turns\.test\.ts/g)!.length).toBeGreaterThan(1);
    const again = await turns
      .take('another', () => Promise.reject(error))
      .catch((thrown: Error) => thrown);
    expect((again as Error).stack).toBe((error as Error).stack);
  });

  it('of what outlives its call are those of the others', async () => {
    const turns = new Turns(silent);
    const notes: string[] = [];
    let late!: Promise<unknown>;
    await turns.take('a', async () => {
      late = new Promise<void>((resolve) => setImmediate(resolve)).then(() =>
        turns.take('late', noted(notes, 'late')),
      );
    });
    const own = turns.take('own', noted(notes, 'own'));
    await Promise.all([late, own]);
    expect(notes).toEqual(inOrder('own', 'late'));
  });
});

describe('an await that would be for ever', () => {
  const neverEnds = (message: string | RegExp) => ({
    code: 'CALL_NEVER_ENDS',
    message: expect.stringMatching(message),
  });
  const oneAfter = 'b was called outside of a and comes after it';

  it('of a call that comes after the one around is refused, and the call keeps its turn', async () => {
    const turns = new Turns(silent);
    const notes: string[] = [];
    const refused: unknown[] = [];
    const ways = [
      async () => await after,
      () => after,
      () => Promise.all([after]),
      () => turns.take('within', async () => await after),
    ];
    const first = turns.take('a', async () => {
      for (const way of ways) await way().catch((error) => refused.push(error));
      notes.push('a ends');
    });
    const after: Promise<string> = turns.take('b', noted(notes, 'b'));
    await first;
    expect(refused).toEqual(ways.map(() => expect.objectContaining(neverEnds(oneAfter))));
    expect(await after).toBe('b');
    expect(notes).toEqual(['a ends', ...inOrder('b')]);
  });

  it('of the call around itself is refused', async () => {
    const turns = new Turns(silent);
    const call: Promise<void> = turns.take('a', async () => await call);
    await expect(call).rejects.toMatchObject(
      neverEnds('what a itself calls waits for the end of a'),
    );
  });

  it('fails the call around where nobody catches it, and is told once', async () => {
    const turns = new Turns(silent);
    const first = turns.take('a', async () => await after);
    const after: Promise<string> = turns.take('b', () => Promise.reject(new Error('closed by a')));
    await expect(first).rejects.toMatchObject(neverEnds(oneAfter));
    // An unhandled rejection of `after` would fail this file.
    await new Promise(setImmediate);
  });

  it('is none for a call that has ended, nor for one of another line', async () => {
    const turns = new Turns(silent);
    const before = turns.take('a', async () => 'a');
    const other = new Turns(silent).take('b', async () => 'b');
    const all = turns.take('c', () => Promise.all([before, other]));
    expect(await all).toEqual(['a', 'b']);
  });

  const rounds = async () => {
    for (let i = 0; i < 10; i += 1) await new Promise(setImmediate);
  };
  /** What Node says to who asked for it when it has nothing left to do; `Turns` asks while a call is open. */
  async function idle(): Promise<void> {
    await rounds();
    process.listeners('beforeExit').at(-1)!.call(process, 0);
    await rounds();
  }

  it('of what is made of a later call is found out when nothing is left to do, one after the other', async () => {
    const listeners = process.listenerCount('beforeExit');
    const turns = new Turns(silent);
    const notes: string[] = [];
    const first = turns.take('a', () => made.catch(({ message }) => message));
    const innocent = turns.take('b', noted(notes, 'b')).catch(({ message }) => message);
    const made: Promise<unknown> = (async () => await turns.take('c', noted(notes, 'c')))();
    const last = turns.take('d', noted(notes, 'd'));
    await idle();
    expect(await innocent).toMatch(/^b comes after a, which itself waits for what never comes$/);
    await idle();
    expect(await first).toMatch(/^c comes after a/);
    expect(await last).toBe('d');
    expect(notes).toEqual(inOrder('d'));
    expect(process.listenerCount('beforeExit')).toBe(listeners);
  });

  it('of what never comes is so, too, from the inside out', async () => {
    const turns = new Turns(silent);
    const never = () => new Promise<string>(() => {});
    const outer = turns.take('a', () => turns.take('b', never));
    const told = outer.catch(({ code, message }) => ({ code, message }));
    await idle();
    expect(await told).toEqual(neverEnds('^b has not ended, and nothing is left to do'));
  });

  it('is named where the process is kept busy, once', async () => {
    let goOn!: (text: string) => void;
    const said = new Promise<string>((resolve) => {
      goOn = resolve;
    });
    const all: string[] = [];
    const turns = new Turns((text) => {
      all.push(text);
      goOn(text);
    }, 5);
    const busy = setInterval(() => {}, 1000);
    const watched = () =>
      turns.watch(
        'onStepEnd',
        said.then(() => sleep(20)),
      );
    const first = turns.take('a', watched);
    const after = turns.take('b', async () => 'b');
    await first;
    clearInterval(busy);
    expect(await after).toBe('b');
    expect(all).toEqual([
      expect.stringMatching(/^onStepEnd of a callback has taken .*, and b comes after a\. /),
    ]);
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
    for (const { predictions, evaluations, steps } of results) {
      expect(predictions.map(({ length }) => length)).toEqual([16, 16]);
      expect(predictions[0]).not.toEqual(predictions[1]);
      expect(evaluations.map(({ eval_samples }) => eval_samples)).toEqual([32, 16]);
      expect(steps).toEqual([2, 2]);
    }
  },
);

it('a loop over predictions makes other calls, and may be left', async () => {
  const trainer = tinyTrainer({ outputDir: join(folder, 'loop'), perDeviceEvalBatchSize: 2 });
  const rows = tinySamples(6);
  const losses = [];
  for await (const { index } of trainer.predict(rows)) {
    losses.push((await trainer.evaluate(rows)).eval_loss);
    if (index === 4) break;
  }
  expect(losses).toEqual(Array(5).fill(losses[0]));
  await trainer.close();
});

it('a script whose callback waits for ever ends, with a reason', async () => {
  const script = `
    import { tinySamples, tinyTrainer } from ${JSON.stringify(tiny.href)};
    const waits = async () => void (await made);
    const trainer = tinyTrainer(
      { outputDir: ${JSON.stringify(join(folder, 'script'))}, maxSteps: 2 },
      { callbacks: [{ onStepEnd: waits }] },
    );
    const training = trainer.train();
    const made = (async () => await trainer.evaluate(tinySamples(4)))();
    await Promise.allSettled([training, made]).then((all) => {
      for (const { reason } of all) console.log(reason.code, reason.message);
    });
  `;
  const flags = ['--import', import.meta.resolve('tsx'), '--input-type=module', '-e', script];
  const { stdout } = await promisify(execFile)(process.execPath, flags);
  const line =
    'CALL_NEVER_ENDS evaluate() comes after train(), which itself waits for what never comes';
  expect(stdout.trim().split('\n')).toEqual([line, line]);
});

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
