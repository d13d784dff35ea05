/**
 * What compression costs in learning: the demo's model on two ranks, validation loss of each optimizer and each way to
 * compress gradients against the same optimizer with whole gradients, on the same samples in the same order. Cases are
 * named `seed N KIND`, and may be run one by one: load does not matter to them.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { demoCorpus } from './corpus.ts';
import type { Aim, Bench, BenchOptions, Report } from './lib.ts';

const steps = 200;
const seeds = [1, 2, 3];
/** A quarter of the steps: the upper end of what the 1-bit papers take. */
const settled = steps / 4;

const adam = { lr: 1e-3, betas: [0.9, 0.98], weight_decay: 0.1 };
/** LAMB's steps are a share of the weights' own length: a larger rate. */
const lamb = { lr: 1e-2, betas: [0.9, 0.98], weight_decay: 0.1 };
const optimizer = (type: string, params: object) => ({ optimizer: { type, params } });
const compression = (type: string, more: object = {}) => ({
  ...optimizer('AdamW', adam),
  compression: { type, ...more },
});

interface Kind {
  deepspeed: object;
  /** What it is compared with. */
  dense?: 'AdamW' | 'Lamb';
}

const kinds: Record<string, Kind> = {
  AdamW: { deepspeed: optimizer('AdamW', adam) },
  Lamb: { deepspeed: optimizer('Lamb', lamb) },
  OneBitAdam: {
    deepspeed: optimizer('OneBitAdam', { ...adam, freeze_step: settled }),
    dense: 'AdamW',
  },
  ZeroOneAdam: {
    deepspeed: optimizer('ZeroOneAdam', {
      ...adam,
      var_freeze_step: settled,
      var_update_scaler: 8,
      local_step_scaler: settled,
      local_step_clipper: 4,
    }),
    dense: 'AdamW',
  },
  OneBitLamb: {
    deepspeed: optimizer('OneBitLamb', { ...lamb, freeze_step: settled }),
    dense: 'Lamb',
  },
  int8: { deepspeed: compression('int8'), dense: 'AdamW' },
  topk: { deepspeed: compression('topk', { start_step: settled }), dense: 'AdamW' },
  'topk, warmed up': {
    deepspeed: compression('topk', { start_step: settled, warmup_steps: 2 * settled }),
    dense: 'AdamW',
  },
  powersgd: { deepspeed: compression('powersgd', { start_step: settled }), dense: 'AdamW' },
};

const here = fileURLToPath(new URL('.', import.meta.url));

/** Nats a token. */
function train(seed: number, deepspeed: object, corpus: string): number {
  const words = [
    ...['--import', 'tsx', join(here, '..', 'src', 'cli', 'deepspeed.ts'), '-q'],
    ...['--num_procs', '2', join(here, 'ranks', 'compressed-loss.ts')],
    ...[JSON.stringify({ steps, seed, deepspeed }), corpus],
  ];
  const output = execFileSync(process.execPath, words, {
    cwd: join(here, '..'),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const loss = Number(/^validation loss (.*)$/m.exec(output)?.[1]);
  if (!(loss > 0)) throw new Error(`no validation loss:\n${output.slice(-2000)}`);
  return loss;
}

async function run({ only, log }: BenchOptions): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'compressed-loss-'));
  const corpus = join(folder, 'corpus.json');
  const losses = new Map<string, number>();
  try {
    writeFileSync(corpus, JSON.stringify(await demoCorpus()));
    for (const seed of seeds)
      for (const [kind, { deepspeed }] of Object.entries(kinds)) {
        const name = `seed ${seed} ${kind}`;
        if (!name.includes(only)) continue;
        losses.set(name, train(seed, deepspeed, corpus));
        log(`${name}: validation loss ${losses.get(name)!.toFixed(4)}`);
      }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const aims: Aim[] = [];
  for (const seed of seeds)
    for (const [kind, { dense }] of Object.entries(kinds)) {
      const ours = losses.get(`seed ${seed} ${kind}`);
      const whole = losses.get(`seed ${seed} ${dense}`);
      if (ours !== undefined && whole !== undefined)
        aims.push({
          name: `seed ${seed} ${kind}: loss over ${dense}'s`,
          value: ours / whole,
          op: '<=',
          aim: 1.02,
        });
    }
  return { figures: Object.fromEntries(losses), aims };
}

export default {
  about: 'validation loss with 1-bit optimizers and compressed gradients against whole gradients',
  run,
} satisfies Bench;
