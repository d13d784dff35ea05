import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { initialize, type InitializeOptions } from './initialize.ts';

const adam = { type: 'AdamW', params: { lr: 0.1, weight_decay: 0.1 } };
const threads = { runtime: { threads: 1 } };
const open = (options: Partial<InitializeOptions> = {}) =>
  initialize({
    parameters: {
      w: Float32Array.of(1, -2, 3),
      b: { values: Float32Array.of(4), weightDecay: false },
    },
    optimizer: adam,
    ...threads,
    ...options,
  });
const gradients = (scale = 1) => ({
  w: Float32Array.of(scale, 2 * scale, -scale),
  b: Float32Array.of(-scale),
});

/** AdamW typed out (Loshchilov and Hutter, 1711.05101). */
function adamw(start: number, steps: readonly number[], decay: number): number {
  let [p, m, v] = [start, 0, 0];
  for (const [index, g] of steps.entries()) {
    const t = index + 1;
    p -= 0.1 * decay * p;
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    p -= ((0.1 / (1 - 0.9 ** t)) * m) / (Math.sqrt(v / (1 - 0.999 ** t)) + 1e-8);
  }
  return p;
}

describe('initialize', () => {
  it('takes gradients and writes parameters, with and without weight decay', async () => {
    const w = Float32Array.of(1, -2, 3);
    const b = Float32Array.of(4);
    const engine = await open({ parameters: { w, b: { values: b, weightDecay: false } } });
    for (const scale of [1, 0.5, -2]) {
      engine.backward(gradients(scale));
      expect(engine.isGradientAccumulationBoundary()).toBe(true);
      expect(engine.step()).toBe(true);
    }
    // Squares of 1, 2, −1 and −1 sum to 7; the last gradients are −2 times that.
    expect(engine.getGlobalGradNorm()).toBeCloseTo(2 * Math.sqrt(7), 5);
    expect(w[1]).toBeCloseTo(adamw(-2, [2, 1, -4], 0.1), 5);
    expect(b[0]).toBeCloseTo(adamw(4, [-1, -0.5, 2], 0), 5);
    await engine.close();
  });

  it('averages micro batches; noSync adds to them', async () => {
    const run = async (parts: readonly number[], synced: readonly number[]) => {
      const w = Float32Array.of(1, -2, 3);
      const engine = await open({
        parameters: { w, b: Float32Array.of(4) },
        deepspeed: { gradient_accumulation_steps: synced.length, optimizer: adam },
      });
      engine.noSync(() => {
        for (const scale of parts) engine.backward(gradients(scale));
      });
      const stepped = synced.map((scale, index) => {
        expect(engine.isGradientAccumulationBoundary()).toBe(index === synced.length - 1);
        engine.backward(gradients(scale));
        return engine.step();
      });
      expect(stepped).toEqual(synced.map((_, index) => index === synced.length - 1));
      const norm = engine.getGlobalGradNorm();
      await engine.close();
      return { w: [...w], norm };
    };
    const plain = await run([], [3]);
    expect((await run([], [2, 4])).norm).toBeCloseTo(plain.norm!, 5);
    expect((await run([1, 0.5], [1.5])).norm).toBeCloseTo(plain.norm!, 5);
    expect((await run([], [2, 4])).w).toEqual(plain.w);
  });

  it('loads what it saved; what is damaged changes nothing', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-loop-'));
    const w = Float32Array.of(1, -2, 3);
    const parameters = { w, b: Float32Array.of(4) };
    const engine = await open({ parameters });
    engine.backward(gradients());
    engine.step();
    await engine.saveCheckpoint(folder, undefined, { epoch: 3 });
    engine.backward(gradients(2));
    engine.step();
    const expected = [...w];
    engine.backward(gradients(3));
    engine.step();
    const afterwards = [...w];
    await engine.close();
    const again = await open({ parameters: { w: w.fill(0), b: Float32Array.of(0) } });
    expect(await again.loadCheckpoint(folder)).toEqual({ epoch: 3 });
    expect(again.globalSteps).toBe(1);
    again.backward(gradients(2));
    again.step();
    expect([...w]).toEqual(expected);
    await expect(again.loadCheckpoint(`${folder}/none`)).rejects.toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
    });
    const shard = join(folder, 'global_step1', 'rank_00000.safetensors');
    writeFileSync(
      shard,
      readFileSync(shard).map((byte, at, { length }) => (at === length - 1 ? byte ^ 1 : byte)),
    );
    await expect(again.loadCheckpoint(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_CORRUPT',
    });
    again.backward(gradients(3));
    again.step();
    expect([...w]).toEqual(afterwards);
    await again.close();
    rmSync(folder, { recursive: true });
  });

  describe('in the middle of accumulation', () => {
    const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-loop-'));
    afterAll(() => rmSync(folder, { recursive: true }));
    const middle = async (stage: number) => {
      const w = Float32Array.of(1, -2, 3);
      const engine = await open({
        parameters: { w, b: Float32Array.of(4) },
        deepspeed: {
          gradient_accumulation_steps: 2,
          zero_optimization: { stage },
          optimizer: adam,
        },
      });
      const step = (scales: readonly number[]) =>
        scales.map((scale) => {
          engine.backward(gradients(scale));
          return engine.step();
        });
      return { engine, w, step };
    };

    it.each([0, 1, 2])('stage %d: a checkpoint is loaded into a step of its own', async (stage) => {
      const tag = `stage${stage}`;
      const plain = await middle(stage);
      plain.step([1, 2]);
      await plain.engine.saveCheckpoint(folder, tag);
      expect(plain.step([3, 4])).toEqual([false, true]);
      const norm = plain.engine.getGlobalGradNorm();
      await plain.engine.close();

      const rewound = await middle(stage);
      // One micro batch, then a whole step that only step() is missing from.
      for (const bad of [[Number.POSITIVE_INFINITY], [100, Number.NaN]]) {
        for (const scale of bad) rewound.engine.backward(gradients(scale));
        await rewound.engine.loadCheckpoint(folder, tag);
        expect(rewound.engine.isGradientAccumulationBoundary()).toBe(false);
        expect(rewound.engine.getGlobalGradNorm()).toBeNull();
      }
      expect(rewound.step([3, 4])).toEqual([false, true]);
      expect(rewound.engine.getGlobalGradNorm()).toBe(norm);
      expect(rewound.w).toEqual(plain.w);
      await rewound.engine.close();
    });

    it('a checkpoint that is refused drops nothing', async () => {
      const [plain, { engine, w, step }] = [await middle(1), await middle(1)];
      plain.step([1, 2]);
      engine.backward(gradients(1));
      await expect(engine.loadCheckpoint(folder, 'none')).rejects.toMatchObject({
        code: 'CHECKPOINT_NOT_FOUND',
      });
      expect(step([2])).toEqual([true]);
      expect(w).toEqual(plain.w);
      for (const one of [plain.engine, engine]) await one.close();
    });

    it('none is saved, and the step goes on', async () => {
      const [plain, { engine, w, step }] = [await middle(1), await middle(1)];
      plain.step([1, 2]);
      engine.backward(gradients(1));
      await expect(engine.saveCheckpoint(folder, 'middle')).rejects.toMatchObject({
        code: 'ARGUMENTS_INVALID',
        message: expect.stringMatching(/in the middle of step 1: .* 1 on rank 0$/),
        fix: expect.stringContaining('after step() has returned true'),
      });
      expect(readdirSync(folder)).not.toContain('middle');
      expect(step([2])).toEqual([true]);
      expect(w).toEqual(plain.w);
      await engine.saveCheckpoint(folder, 'middle');
      for (const one of [plain.engine, engine]) await one.close();
      await expect(engine.saveCheckpoint(folder, 'closed')).rejects.toMatchObject({
        code: 'TRAINER_CLOSED',
      });
      await expect(engine.loadCheckpoint(folder, 'middle')).rejects.toMatchObject({
        code: 'TRAINER_CLOSED',
      });
    });

    it('gradients that are not finite are named whichever micro batch they came with', async () => {
      const early = await middle(1);
      early.engine.backward({ ...gradients(), b: Float32Array.of(Number.POSITIVE_INFINITY) });
      early.engine.backward(gradients());
      expect(() => early.engine.step()).toThrow(
        'step 1: gradients are not finite: b, in an earlier micro batch than the last, or their sum overflows',
      );
      await early.engine.close();
    });
  });

  it('noSync of an asynchronous action lasts until that has ended', async () => {
    const run = async (asynchronous: boolean, fails = false) => {
      const w = Float32Array.of(1, -2, 3);
      const engine = await open({ parameters: { w, b: Float32Array.of(4) } });
      const part = (scale: number) => {
        engine.backward(gradients(scale));
        expect(engine.step()).toBe(false);
        expect(engine.isGradientAccumulationBoundary()).toBe(false);
        return scale;
      };
      if (asynchronous) {
        const result = engine.noSync(async () => {
          await null;
          part(1);
          // Another one within it does not end it.
          expect(engine.noSync(() => part(0.5))).toBe(0.5);
          await null;
          part(2);
          if (fails) throw new Error('no more parts');
          return 'parts';
        });
        expect(engine.isGradientAccumulationBoundary()).toBe(false);
        if (fails) await expect(result).rejects.toThrow('no more parts');
        else expect(await result).toBe('parts');
      } else {
        engine.noSync(() => [1, 0.5, 2].map(part));
      }
      expect(engine.isGradientAccumulationBoundary()).toBe(true);
      engine.backward(gradients(4));
      expect(engine.step()).toBe(true);
      await engine.close();
      return w;
    };
    const expected = await run(false);
    expect(await run(true)).toEqual(expected);
    expect(await run(true, true)).toEqual(expected);
  });

  it('schedules the rate; setLr overrules', async () => {
    const scheduler = {
      type: 'WarmupLR',
      params: { warmup_max_lr: 0.4, warmup_num_steps: 4, warmup_type: 'linear' },
    };
    const engine = await open({ deepspeed: { scheduler, optimizer: adam } });
    const rates: number[] = [];
    for (let step = 0; step < 3; step += 1) {
      rates.push(engine.getLr());
      engine.backward(gradients());
      engine.step();
    }
    // DeepSpeed's schedules stand still for the first two steps.
    expect(rates.map((rate) => Number(rate.toFixed(6)))).toEqual([0, 0, 0.1]);
    engine.setLr(0.7);
    expect(engine.getLr()).toBe(0.7);
    await engine.close();
  });

  it.each([
    [{ optimizer: undefined }, 'has no optimizer'],
    [{ parameters: {} }, 'got no parameters'],
    [{ parameters: { w: new Float32Array(0) } }, 'the parameter w is empty'],
    [{ parameters: { w: [1] as unknown as Float32Array } }, 'is no Float32Array'],
    [{ parameters: { w: { values: Float32Array.of(1, 2), shape: [3] } } }, 'has 2 elements'],
    [{ deepspeed: { optimizer: { type: 'SGD', params: { lr: 1 } } } }, 'differ'],
    [{ optimizer: { type: 'Adamm' } }, 'Adamm'],
    [{ strategy: 'ddp', optimizer: { type: 'OneBitLamb' } }, 'sends whole gradients'],
    [{ deepspeed: { tfjs: { exact_random: true } } }, 'the loop host has no use for it'],
  ] as [object, string][])('refuses %j', async (options, text) => {
    await expect(open(options)).rejects.toThrow(text);
  });

  it('refuses gradients that do not fit, and says which', async () => {
    const refused = async (given: object, text: string) => {
      const engine = await open();
      expect(() => engine.backward(given as never)).toThrow(text);
      await engine.close();
      expect(() => engine.backward(gradients())).toThrow('failed');
    };
    await refused({ w: Float32Array.of(1, 2, 3) }, 'the gradient of b is missing');
    await refused({ ...gradients(), W2: null }, 'there is no parameter W2; did you mean w?');
    await refused({ ...gradients(), b: [1] }, 'b is no Float32Array');
    await refused({ ...gradients(), w: Float32Array.of(1) }, 'w has 1 elements, the parameter 3');
  });

  it('stops at gradients that are not finite, at changed parameters, at too many micro batches', async () => {
    const broken = await open();
    broken.backward({ ...gradients(), b: Float32Array.of(Number.NaN) });
    expect(() => broken.step()).toThrow('step 1: gradients are not finite: b on rank 0');
    const w = Float32Array.of(1, -2, 3);
    const changed = await open({ parameters: { w, b: Float32Array.of(1) } });
    w[0] = 9;
    changed.backward(gradients());
    expect(() => changed.step()).toThrow('the parameter w was changed outside of step()');
    const allowed = await open({ parameters: { w, b: Float32Array.of(1) } });
    w[0] = 1;
    await allowed.parametersReplaced();
    allowed.backward({ w: null, b: null });
    expect(() => allowed.backward(gradients())).toThrow('backward() was called 2 times');
    const early = await open({ parameters: { w, b: Float32Array.of(1) } });
    expect(() => early.step()).toThrow('step() was called without a backward()');
    const elsewhere = await open({ parameters: { w, b: Float32Array.of(1) } });
    // A folder below a file.
    const impossible = elsewhere.saveCheckpoint(`${import.meta.filename}/x`);
    await expect(impossible).rejects.toMatchObject({ code: 'OUTPUT_NOT_WRITABLE' });
    const worded = await open({ parameters: { w, b: Float32Array.of(1) } });
    expect(() => worded.backward(gradients(), 'x' as unknown as number)).toThrow(
      'got "x" as the loss',
    );
    for (const engine of [broken, changed, allowed]) await engine.close();
  });

  it('noSync needs whole gradients', async () => {
    const engine = await open({ deepspeed: { zero_optimization: { stage: 2 }, optimizer: adam } });
    expect(() => engine.noSync(() => 1)).toThrow('zero_optimization.stage 2');
    await engine.close();
  });
});
