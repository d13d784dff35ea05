import { describe, expect, it } from 'vitest';
import { Claims, type OptimizerStepOwner } from './claims.ts';
import type { StepPlan } from './events.ts';
import { type Host, requireCapability } from './host.ts';
import { Lifecycle } from './lifecycle.ts';
import { stages } from './stages.ts';
import { Tracer } from './trace.ts';

const plan: StepPlan = { training: true, step: 3, microBatch: 0, microBatches: 1 };
const event = { plan, segment: 0, pass: 'forward' } as const;

describe('taps', () => {
  it('fire by stage, whatever the order in which plugins tap; equal stages in tapping order', () => {
    const lifecycle = new Lifecycle();
    const fired: string[] = [];
    const shuffled = ['release', 'plan', 'observe', 'reduce', 'acquire', 'compute'] as const;
    for (const round of ['first', 'second']) {
      for (const stage of shuffled) {
        lifecycle.tap('acquire', stage, `${round}.${stage}`, () => {
          fired.push(`${stage} ${round}`);
        });
      }
    }
    lifecycle.fire('acquire', event);
    expect(fired).toEqual(stages.flatMap((stage) => [`${stage} first`, `${stage} second`]));
    expect(lifecycle.taps().acquire.slice(0, 2)).toEqual(['first.plan', 'second.plan']);
  });

  it('of planStep hand a plan on; without taps it stays as it was', () => {
    const lifecycle = new Lifecycle();
    expect(lifecycle.fire('planStep', plan)).toBe(plan);
    lifecycle.tap('planStep', 'plan', 'a.more', (given) => ({ ...given, step: given.step + 1 }));
    lifecycle.tap('planStep', 'observe', 'b.twice', (given) => ({
      ...given,
      step: given.step * 2,
    }));
    expect(lifecycle.fire('planStep', plan).step).toBe(8);
  });

  it('of cold hooks are awaited one after the other', async () => {
    const lifecycle = new Lifecycle();
    const said: string[] = [];
    for (const name of ['a', 'b']) {
      lifecycle.tap('shutdown', 'release', `${name}.close`, async () => {
        said.push(`${name} begins`);
        await new Promise((resolve) => setImmediate(resolve));
        said.push(`${name} ends`);
      });
    }
    await lifecycle.run('shutdown', {});
    expect(said).toEqual(['a begins', 'a ends', 'b begins', 'b ends']);
  });
});

describe('what goes wrong in a tap', () => {
  it.each([
    ['an async function', async () => {}],
    ['a rejected promise', () => Promise.reject(new Error('lost'))],
    // biome-ignore lint/suspicious/noThenProperty: any thenable counts
    ['a thenable', () => ({ then: () => {} })],
  ])('on a synchronous hook, %s is an error that names both', (_, fn) => {
    const lifecycle = new Lifecycle();
    lifecycle.tap('forward', 'observe', 'late.wait', fn as never);
    expect(() => lifecycle.fire('forward', { ...event, work: 1 })).toThrow(
      expect.objectContaining({
        code: 'HOOK_ASYNC_TAP',
        message: expect.stringMatching(/"late\.wait".*forward/),
      }),
    );
  });

  it('is thrown as it is, with hook and tap named once', async () => {
    const lifecycle = new Lifecycle();
    const error = new TypeError('broken');
    lifecycle.tap('setup', 'acquire', 'a.open', async () => {
      throw error;
    });
    lifecycle.tap('metrics', 'observe', 'b.log', () => {
      throw error;
    });
    await expect(lifecycle.run('setup', {})).rejects.toBe(error);
    expect(() => lifecycle.fire('metrics', {} as never)).toThrow(error);
    expect(error.message).toBe('broken [in a.open, setup]');
  });

  it('stops the taps that come after it', () => {
    const lifecycle = new Lifecycle();
    let reached = false;
    lifecycle.tap('release', 'release', 'a.fail', () => {
      throw new Error('no');
    });
    lifecycle.tap('release', 'observe', 'b.watch', () => {
      reached = true;
    });
    expect(() => lifecycle.fire('release', { ...event, work: 1 })).toThrow('no');
    expect(reached).toBe(false);
  });
});

it('a tracer gets a span of every tap, failed ones included', () => {
  const tracer = new Tracer();
  const lifecycle = new Lifecycle(tracer);
  lifecycle.tap('acquire', 'acquire', 'a.good', () => {});
  lifecycle.tap('acquire', 'release', 'b.bad', () => {
    throw new Error('no');
  });
  expect(() => lifecycle.fire('acquire', event)).toThrow();
  const spans = tracer.take();
  expect(spans.map(({ category, name }) => `${category} ${name}`)).toEqual([
    'acquire a.good',
    'acquire b.bad',
  ]);
  for (const { startNs, endNs } of spans) expect(endNs).toBeGreaterThanOrEqual(startNs);
});

it('a claim has one owner; a second plugin is told of the first', () => {
  const claims = new Claims();
  const owner = {} as OptimizerStepOwner;
  expect(claims.owner('optimizerStep')).toBeUndefined();
  claims.claim('optimizerStep', 'zero', owner);
  expect(claims.owner('optimizerStep')).toBe(owner);
  expect(() => claims.claim('optimizerStep', 'mine', {} as OptimizerStepOwner)).toThrow(
    expect.objectContaining({
      code: 'CLAIM_CONFLICT',
      message: expect.stringMatching(/"zero" and "mine" both claim optimizerStep/),
    }),
  );
  expect(claims.owner('optimizerStep')).toBe(owner);
  expect(claims.entries()).toEqual([{ claim: 'optimizerStep', plugin: 'zero' }]);
});

it('a missing capability is an error that names the key and the host', () => {
  const host = { name: 'loop', capabilities: new Set(['segments']) } as unknown as Host;
  requireCapability(host, 'segments', 'zero_optimization.stage');
  expect(() => requireCapability(host, 'layerSkipping', 'progressive_layer_drop')).toThrow(
    expect.objectContaining({
      code: 'HOST_LACKS_CAPABILITY',
      message: expect.stringMatching(/progressive_layer_drop.*"layerSkipping".*loop/),
    }),
  );
});
